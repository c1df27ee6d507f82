"""The figures of a run that wandb wrote offline: its file is a log of LevelDB's form, with a record in each entry."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path

#: What the file begins with (a mark, a number and a version), and the bytes of a block.
_OPENING, _BLOCK = 7, 32768
#: Of an entry's part: checksum, length, and whether it is the whole, the first, a middle or the last part.
_PART = struct.Struct("<IHB")
_WHOLE, _LAST = 1, 4


def _entries(data: bytes) -> Iterator[bytes]:
    place, entry = _OPENING, b""
    while place + _PART.size <= len(data):
        left = _BLOCK - place % _BLOCK
        if left < _PART.size:
            place += left
            continue
        _, length, kind = _PART.unpack_from(data, place)
        place += _PART.size
        entry += data[place : place + length]
        place += length
        if kind in (_WHOLE, _LAST):
            yield entry
            entry = b""


def offline_history(folder: Path) -> list[dict[str, float]]:
    """The figures of the one run below a folder, a mapping for each step."""
    from wandb.proto.wandb_internal_pb2 import Record

    (file,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    lines = []
    for entry in _entries(file.read_bytes()):
        record = Record.FromString(entry)
        if record.WhichOneof("record_type") == "history":
            items = {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
            lines.append({name: json.loads(value) for name, value in items.items()})
    return lines
