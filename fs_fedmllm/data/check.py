"""Validate a data set, every row and every image, and list what is wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from fs_fedmllm.data.findings import Finding, Findings, as_finding
from fs_fedmllm.data.images import check_image, open_image
from fs_fedmllm.data.registry import load_dataset
from fs_fedmllm.data.sample import Dataset, Sample
from fs_fedmllm.errors import DataError


def check(
    name: str, root: Path | str, options: Mapping[str, Any] | None = None, *, decode: bool = False
) -> list[Finding]:
    """All findings, errors first; an empty list is a clean data set.

    Args:
        name: the value of ``data.type``.
        root: the data root.
        options: the adapter's options; with ``require_images: false`` absent images are passed over.
        decode: decode every image, which also finds damaged pixels, in place of reading headers only.

    Raises:
        ConfigError: the name or an option is wrong.
    """
    return inspect(name, root, options, decode=decode)[1]


def inspect(
    name: str, root: Path | str, options: Mapping[str, Any] | None = None, *, decode: bool = False
) -> tuple[Dataset | None, list[Finding]]:
    """As ``check``, and the data set itself, without its wrong rows; None if it cannot be read at all."""
    found = Findings(strict=False)
    dataset = None
    try:
        dataset = load_dataset(name, root, options, findings=found)
        absent_ok = (options or {}).get("require_images", True) is False
        _images(
            chain(dataset.train, dataset.val, dataset.test), open_image if decode else check_image, absent_ok, found
        )
    except DataError as error:
        found.items.append(as_finding(error))
    order = ("error", "warning", "note")
    return dataset, sorted(found.items, key=lambda f: order.index(f.severity))  # stable: the rows' order is kept


def _images(samples: Iterable[Sample], look: Callable[[str, str], object], absent_ok: bool, found: Findings) -> None:
    """Each image once, however many rows ask about it."""
    seen: set[str] = set()
    for sample in samples:
        if sample.image is None or sample.image in seen:
            continue
        seen.add(sample.image)
        if absent_ok and not Path(sample.image).exists():
            continue
        try:
            look(sample.image, sample.source)
        except DataError as error:
            found.error(error)
