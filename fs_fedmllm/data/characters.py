"""Half characters: JSON and YAML can write one half of a pair (``\\ud83d``), which no UTF-8 file can hold.

They come from texts that were cut at a number of UTF-16 units, in the middle of an emoji.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fs_fedmllm.text_columns import lone_surrogate


def half_characters(row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The keys of a row whose names or values hold one, however deep, and the first of each."""
    for key, value in row.items():
        half = next(filter(None, map(lone_surrogate, _texts({key: value}))), "")
        if half:
            yield key, half


def _texts(value: Any) -> Iterator[str]:
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, Mapping):
            waiting += [*item.keys(), *item.values()]
        elif isinstance(item, list | tuple):
            waiting += item
