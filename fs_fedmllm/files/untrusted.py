"""Files and JSON that may come from anybody: read within bounds, and with errors that their readers know.

A path may name a pipe that nobody writes to or a device that never ends; a small text may hold a number or a nesting
that costs minutes. What is refused here is an ``OSError`` or a ``ValueError``, so that every reader says it in its own
words, with its file and its remedy; :func:`read_mapping` says it for those that need no words of their own.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from io import BufferedReader
from pathlib import Path
from typing import Any

from fs_fedmllm.errors import FedMLLMError

#: Bytes of a file that people write (configurations, templates, tables).
WRITTEN = 1 << 20
#: Bytes of a file that programs write about a run or an adapter (states, results, descriptions).
RECORDED = 256 << 20


def open_regular(path: str | os.PathLike[str]) -> BufferedReader:
    """Open a file for reading, and nothing that only looks like one.

    Raises:
        OSError: there is none, it may not be read, or it is a pipe, a device, a socket or a folder.
    """
    # Looked at before it is opened (opening a device can do something) and after (it may have been swapped).
    _require_regular(os.stat(path), path)
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        _require_regular(os.fstat(handle), path)
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def _require_regular(found: os.stat_result, path: str | os.PathLike[str]) -> None:
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, "it is a folder, not a file", str(path))
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "it is a pipe or a device, not a file", str(path))


def read_regular(path: str | os.PathLike[str], most: int) -> bytes:
    """A file's bytes.

    Args:
        path: the file.
        most: bytes that are read at most.

    Raises:
        OSError: as :func:`open_regular`, or it is larger.
    """
    with open_regular(path) as stream:
        data = stream.read(most + 1)
    if len(data) > most:
        raise OSError(errno.EFBIG, f"it has more than the {most:,} bytes that are read of such a file", str(path))
    return data


def both_ends(path: Path) -> bytes:
    """A file's first and last MiB: they tell apart files that are too large to read."""
    with path.open("rb") as stream:
        first = stream.read(1 << 20)
        stream.seek(max(0, path.stat().st_size - (1 << 20)))
        return first + stream.read()


def _mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r} stands twice")
    return made


#: Decodes JSON in which no mapping has a key twice: of two values the first would be lost without a word.
DECODER = json.JSONDecoder(object_pairs_hook=_mapping)


def parse_json(text: str | bytes, *, unique_keys: bool = False) -> Any:
    """JSON, where all that can be wrong is a ``ValueError``: nested too deeply, a number of thousands of digits.

    Args:
        text: the JSON.
        unique_keys: whether a key that stands twice in a mapping is refused; without, the last one counts.

    Raises:
        ValueError: it is no JSON, or not within these bounds.
    """
    try:
        return json.loads(text, object_pairs_hook=_mapping if unique_keys else None)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_json(path: Path, most: int = RECORDED) -> Any:
    """A file's JSON, which is UTF-8.

    Raises:
        OSError: as :func:`read_regular`.
        ValueError: as :func:`parse_json`.
    """
    return parse_json(read_regular(path, most).decode("utf-8"))


def read_object(path: Path) -> dict[str, Any]:
    """A file's JSON, which must be a mapping.

    Raises:
        OSError: as :func:`read_regular`.
        ValueError: as :func:`parse_json`, or it is no mapping.
    """
    found = read_json(path)
    if not isinstance(found, dict):
        raise ValueError(f"{path.name} must be a mapping")
    return found


def object_if_any(path: Path) -> dict[str, Any]:
    """As :func:`read_object`; empty where there is none that can be read."""
    try:
        return read_object(path)
    except (OSError, ValueError):
        return {}


def read_mapping(path: Path, error: type[FedMLLMError], remedy: str = "") -> dict[str, Any]:
    """As :func:`read_object`, for a file that the user can put right.

    Args:
        path: the file.
        error: what is raised where it cannot be read.
        remedy: what to do then; a sentence.
    """
    try:
        return read_object(path)
    except (OSError, ValueError) as fault:
        says = fault.strerror if isinstance(fault, OSError) else fault
        raise error(f"{path} cannot be read ({says}). {remedy}".rstrip()) from fault


def read_json_lines(path: Path) -> list[Any]:
    """What a file's lines hold, which are JSON; blank ones are passed over.

    Raises:
        OSError: as :func:`read_regular`.
        ValueError: as :func:`parse_json`.
    """
    text = read_regular(path, RECORDED).decode("utf-8")
    return [parse_json(line) for line in text.split("\n") if line.strip()]
