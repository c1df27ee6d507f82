"""Values of a row of an annotation file; one that cannot be used is an error that names the row."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from fs_fedmllm.data.findings import RowError
from fs_fedmllm.data.sample import Sample

#: A row as its file has it, and rows with their places, ``file:line``.
Row = Mapping[str, Any]
Rows = Iterable[tuple[str, Row]]


def need(row: Row, key: str, where: str) -> Any:
    """A row's value; without the key, an error that lists the keys there are."""
    if key not in row:
        have = ", ".join(str(k) for k in list(row)[:12]) or "none"
        raise RowError(where, f"the key {key!r} is missing (keys here: {have}).", "Check that this is the right file.")
    return row[key]


def shown(value: Any, most: int = 120) -> str:
    """A value of a row for a message, cut where it is long."""
    text = repr(value)
    return text if len(text) <= most else f"{text[:most]}..."


def text_of(row: Row, key: str, where: str) -> str:
    """A row's value as text; numbers are taken as they are written."""
    value = need(row, key, where)
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise RowError(where, f"{key} must be text, not {shown(value)}.", "Write a text or a number.")
    if isinstance(value, float) and not math.isfinite(value):
        raise RowError(
            where, f"{key} must be text, not {value!r}, which is not a number.", "Write a text or a number."
        )
    return str(value)


def filled(row: Row, key: str, where: str) -> str:
    """As ``text_of``, and it must not be blank."""
    value = text_of(row, key, where)
    if not value.strip():
        raise RowError(where, f"{key} is empty.", "Fill it in, or remove the row.")
    return value


def unique() -> Callable[[Sample], Sample]:
    """A function that passes samples on and refuses an id that it has seen."""
    seen: dict[str, str] = {}

    def check(sample: Sample) -> Sample:
        first = seen.setdefault(sample.id, sample.source)
        if first != sample.source:
            raise RowError(
                sample.source, f"the id {sample.id!r} is already used in {first}.", "Give each row its own id."
            )
        return sample

    return check
