"""Images that a model's processor refuses because one side is far longer than the other."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from fs_fedmllm.data.findings import Findings, RowError
from fs_fedmllm.data.images import check_image
from fs_fedmllm.data.sample import Sample


def check_shapes(samples: Iterable[Sample], widest: float, family: str, found: Findings | None = None) -> None:
    """Look at every image's size; only headers are read, each file once.

    Args:
        samples: the rows.
        widest: the largest ratio of an image's sides that the processor takes; 0 takes any, and nothing is read.
        family: the model's, for the message.
        found: where to put what is wrong; without it the first error is raised.

    Raises:
        DataError: an image is longer than that, named with its row, size and the limit.
    """
    found, seen = found or Findings(), set()
    for sample in samples if widest else ():
        if sample.image is None or sample.image in seen or not Path(sample.image).exists():
            continue
        seen.add(sample.image)
        width, height = check_image(sample.image, sample.source)
        ratio = max(width, height) / min(width, height)
        if ratio > widest:
            problem = (
                f"the image {sample.image} is {width} x {height} pixels, one side {ratio:.0f} times the other; models "
                f"of the family {family} take at most {widest:g} times."
            )
            where = sample.source or f"row {sample.id}"
            found.error(RowError(where, problem, "Crop or pad it, or remove the row."))
