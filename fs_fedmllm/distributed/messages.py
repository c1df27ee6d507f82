"""What two sites tell each other: a kind, a small JSON header, and named tensors."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from fs_fedmllm.distributed.errors import FrameError
from fs_fedmllm.text_columns import cut

#: Version of the protocol; it rises with every change that an older release would misread.
VERSION = 1
#: Deepest nesting of a header.
MAX_DEPTH = 16
#: Whole numbers of a header fit 64 bits, so that every reader agrees on them.
MAX_INTEGER = 2**63 - 1
KIND = re.compile(r"[a-z][a-z0-9_]{0,63}")


@dataclass(frozen=True)
class Message:
    """One message.

    Attributes:
        kind: what it is for, in lower case: ``"update"``, ``"join"``.
        header: JSON values (text, whole and finite numbers, true, false, null, lists, mappings with text keys).
        tensors: tensors by name, dense, of a dtype in :data:`fs_fedmllm.distributed.frames.DTYPES`; the order stays.
    """

    kind: str
    header: Mapping[str, Any] = field(default_factory=dict)
    tensors: Mapping[str, torch.Tensor] = field(default_factory=dict)


def write_header(message: Message) -> bytes:
    """Kind and header as UTF-8 JSON.

    Raises:
        FrameError: the kind is no identifier, or the header holds something that JSON has no exact form for.
    """
    value = {"kind": message.kind, "header": dict(message.header)}
    _check(value)
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def read_header(data: bytes) -> tuple[str, dict[str, Any]]:
    """Kind and header from JSON that may come from anybody.

    Args:
        data: UTF-8 JSON; its length is the caller's to bound.

    Raises:
        FrameError: it is not exactly what :func:`write_header` could have written.
    """
    value = read_json(data)
    if not isinstance(value, dict) or set(value) != {"kind", "header"} or not isinstance(value["header"], dict):
        raise FrameError("The header is not a mapping of kind and header.")
    _check(value)
    return value["kind"], value["header"]


def read_json(data: bytes) -> Any:
    """JSON without NaN, infinities, repeated keys or endless nesting.

    Raises:
        FrameError: it has one of these, or is no JSON.
    """
    try:
        return json.loads(
            data.decode("utf-8"), parse_constant=_refuse, parse_float=_finite, object_pairs_hook=_without_repeats
        )
    except RecursionError:  # the parser's own guard; what it let through is at most some hundred levels deep
        raise FrameError("JSON is nested too deeply.") from None
    except ValueError as error:  # not UTF-8, not JSON, or a number with thousands of digits
        raise FrameError(f"A header is no JSON ({type(error).__name__}).") from None


def shown(text: object, most: int = 100) -> str:
    """Words of a peer's for our messages and logs: short, and without line breaks or escape sequences."""
    return cut(ascii(text), most)


def _refuse(word: str) -> Any:
    raise FrameError(f"JSON holds {word}, which is no JSON.")


def _finite(word: str) -> float:
    value = float(word)
    if not math.isfinite(value):
        raise FrameError("JSON holds a number beyond the range of a double.")
    return value


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise FrameError("JSON repeats a key in one mapping.")
    return found


def _check(value: dict[str, Any]) -> None:
    kind = value["kind"]
    if not isinstance(kind, str) or not KIND.fullmatch(kind):
        raise FrameError(f"A message's kind is {shown(kind)}; it must be lower-case letters, digits and underscores.")
    for item, depth in _walk(value["header"]):
        if depth > MAX_DEPTH:
            raise FrameError(f"A header is nested deeper than {MAX_DEPTH} levels.")
        if isinstance(item, str):
            try:
                item.encode()
            except UnicodeEncodeError:
                raise FrameError("A header holds half of a surrogate pair, which is not text.") from None
        elif isinstance(item, float):
            if not math.isfinite(item):
                raise FrameError("A header holds a number that is not finite.")
        elif isinstance(item, int):  # true and false too
            if abs(item) > MAX_INTEGER:
                raise FrameError("A header holds a whole number of more than 64 bits.")
        elif item is not None and not isinstance(item, dict | list | tuple):
            raise FrameError(f"A header holds a {type(item).__name__}, which JSON has no form for.")


def _walk(value: Any) -> Iterator[tuple[Any, int]]:
    """Every value of a tree with its depth, keys too; stops below the deepest allowed level."""
    pending = [(value, 1)]
    while pending:
        item, depth = pending.pop()
        yield item, depth
        if depth > MAX_DEPTH:
            continue
        if isinstance(item, dict):
            for key in item:
                if not isinstance(key, str):
                    raise FrameError(f"A header has the key {shown(key)}, which is not text.")
                pending.append((key, depth))
            pending.extend((child, depth + 1) for child in item.values())
        elif isinstance(item, list | tuple):
            pending.extend((child, depth + 1) for child in item)
