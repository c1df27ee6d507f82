"""Validate a data set, every row and every image, and list what is wrong."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from fs_fedmllm.data.alike_labels import alike_sentences
from fs_fedmllm.data.findings import Finding, Findings, as_finding
from fs_fedmllm.data.images import look_at_image
from fs_fedmllm.data.overlap import label_counts, label_sentences, overlap_sentences, overlaps
from fs_fedmllm.data.registry import EMBEDDED, load_dataset
from fs_fedmllm.data.sample import Dataset, Sample
from fs_fedmllm.data.shapes import check_shapes
from fs_fedmllm.data.template_file import load_template
from fs_fedmllm.errors import DataError, TemplateError


def inspect(
    name: str,
    root: Path | str,
    options: Mapping[str, Any] | None = None,
    *,
    decode: bool = True,
    widest: float = 0.0,
    family: str = "",
    groups: Sequence[str] = (),
    by_client: str = "",
    test_only: bool = False,
) -> tuple[Dataset | None, list[Finding]]:
    """A data set without its wrong rows (None if it cannot be read at all), and all findings, errors first.

    Args:
        name: the value of ``data.type``.
        root: the data root.
        options: the reader's; with ``require_images: false`` absent images are passed over.
        decode: decode every image whole; without, headers only are read, and damaged pixels go unseen.
        widest: as for :func:`fs_fedmllm.data.shapes.check_shapes`.
        family: of the model.
        groups: keys of rows whose values should not stand in two splits, beside those that the options name.
        by_client: as for :func:`fs_fedmllm.data.registry.load_dataset`.
        test_only: leave out training and validation rows, of which nothing is used.

    Raises:
        ConfigError: the name or an option is wrong.
    """
    found = Findings(strict=False)
    dataset = None
    try:
        dataset = load_dataset(name, root, options, findings=found, by_client=by_client)
        if test_only:
            dataset = replace(dataset, train=(), val=())
        absent_ok = (options or {}).get("require_images", True) is False
        rows = [*chain(dataset.train, dataset.val, dataset.test)]
        good = _images(rows, decode, absent_ok, found)
        check_shapes(good, widest, family, found)
        named = (options or {}).get("groups", ())
        shared = overlaps(dataset, tuple(dict.fromkeys((*named, *groups))))
        labels = label_counts(dataset, load_template(dataset.template))
        for sentence in (*overlap_sentences(shared), *label_sentences(labels), *alike_sentences(*labels.values())):
            found.warn(str(root) if name not in EMBEDDED else name, sentence)
    except (DataError, TemplateError) as error:
        found.items.append(as_finding(error))
    order = ("error", "warning", "note")
    return dataset, sorted(found.items, key=lambda f: order.index(f.severity))  # stable: the rows' order is kept


def _images(samples: Iterable[Sample], decode: bool, absent_ok: bool, found: Findings) -> list[Sample]:
    """Look at each image once, however many rows ask about it; returns a row for each that is good."""
    good, seen, framed = [], set(), []
    for sample in samples:
        if sample.image is None or sample.image in seen:
            continue
        seen.add(sample.image)
        if absent_ok and not Path(sample.image).exists():
            continue
        try:
            facts = look_at_image(sample.image, sample.source, decode=decode)
        except DataError as error:
            found.error(error)
            continue
        good.append(sample)
        if facts.more_frames:
            framed.append(sample)
    if framed:
        file = framed[0].source.rpartition(":")[0]
        files = "1 image file holds" if len(framed) == 1 else f"{len(framed):,} image files hold"
        found.warn(file, f"{files} several frames or pages, such as {framed[0].image}; the first is used.")
    return good
