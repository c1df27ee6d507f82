"""Changes of valid inputs: of their bytes, and of the values in their JSON."""

from __future__ import annotations

import base64
import copy
import json
import random
from typing import Any

#: What parsers trip over, as bytes and as values.
WORDS = (
    *(b"\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\r\n"),
    *(b"[" * 300, b'{"a":' * 300, b"9" * 5000, b"1e999", b"-0", b"NaN", b"Infinity", b'"\\ud800"', b"null", b"true"),
    *(b"&a [*a]", b"*a", b"<<: ", b"!!binary ", b"!!int ", b"!!timestamp ", b"!!python/name:os.system ", b"? ", b"- "),
    *(b": ", b"---\n", b"...", b"%YAML 1.1\n", b"0x", b"0b", b"1:1:1", b"2001-99-99", b'"\\UFFFFFFFF"', b"=", b"~"),
)
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 7, 2**31, 2**63, -(2**63), 10**400, 0.5, -0.0, 1e308, float("nan")),
    *(float("inf"), "", " ", "a", "0", "1e5", "-1", "²", "\ud800", "\0", "../../etc/passwd", "/dev/zero", "x" * 5000),
    *([], {}, [[]], [1], ["a"], [None], {"a": 1}, {"": None}, [[[[[[1]]]]]], "F32", "NaN", "fixed", [0, 10**18]),
)


def changed_bytes(data: bytes, others: list[bytes], draw: random.Random) -> bytes:
    """The bytes after one to four changes."""
    found = bytearray(data)
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        at = draw.randrange(len(found) + 1)
        end = min(len(found), at + draw.choice((1, 1, 2, 4, 16, 64, 1000)))
        kind = draw.randrange(8)
        if kind == 0 and found:
            found[at % len(found)] ^= 1 << draw.randrange(8)
        elif kind == 1:
            del found[at:]
        elif kind == 2:
            del found[at:end]
        elif kind == 3:
            found[at:at] = draw.choice(WORDS)
        elif kind == 4:
            found[at:end] = draw.randbytes(end - at)
        elif kind == 5:
            found[at:at] = found[at:end] * draw.choice((1, 2, 50))
        elif kind == 6:
            other = draw.choice(others)
            start = draw.randrange(len(other) + 1)
            found[at:] = other[start:]
        else:
            word = draw.choice(WORDS)
            found[at : at + len(word)] = word
    return bytes(found[: 1 << 20])


def changed_json(value: Any, draw: random.Random) -> Any:
    """The value after one to three changes anywhere in its tree."""
    found = copy.deepcopy(value)
    for _ in range(draw.choice((1, 1, 2, 3))):
        places: list[tuple[Any, Any]] = []
        pending = [found]
        while pending:
            item = pending.pop()
            if isinstance(item, dict | list):
                places += [(item, key) for key in (item if isinstance(item, dict) else range(len(item)))]
                pending += item.values() if isinstance(item, dict) else item
        if not places:
            return copy.deepcopy(draw.choice(VALUES))
        holder, key = draw.choice(places)
        kind = draw.randrange(10)
        if kind == 0:
            del holder[key]
        elif kind == 1 and isinstance(holder, dict):
            holder[draw.choice(("", "a", "text", "\ud800", "__metadata__", "sha256"))] = draw.choice(VALUES)
        elif kind == 2 and isinstance(holder, dict):
            holder[f"{key}x"] = holder.pop(key)
        elif kind == 3 and isinstance(holder[key], int):
            holder[key] += draw.choice((-1, 1, 1000))
        elif kind == 4:
            other, name = draw.choice(places)
            if name in other if isinstance(other, dict) else name < len(other):
                holder[key] = copy.deepcopy(other[name])
        elif kind == 5 and isinstance(holder, list):
            holder *= 2
        else:
            holder[key] = copy.deepcopy(draw.choice(VALUES))
    return found


def as_json(value: Any, draw: random.Random) -> bytes:
    """A tree as JSON, which is YAML too; half of a surrogate pair stays escaped."""
    return json.dumps(value, indent=draw.choice((None, 1))).replace("NaN", draw.choice(("NaN", ".nan"))).encode()


def changed_text(data: bytes, others: list[bytes], draw: random.Random) -> bytes:
    """JSON after a change of its tree, or of its bytes."""
    if draw.random() < 0.6:
        try:
            return as_json(changed_json(json.loads(data), draw), draw)
        except ValueError:
            pass
    return changed_bytes(data, others, draw)


def changed_lines(data: bytes, others: list[bytes], draw: random.Random) -> bytes:
    """JSON Lines after a change of one row's tree, or of the bytes."""
    lines = data.splitlines(keepends=True)
    if draw.random() < 0.3 or not lines:
        return changed_bytes(data, others, draw)
    at = draw.randrange(len(lines))
    try:
        lines[at] = json.dumps(changed_json(json.loads(lines[at]), draw)).encode() + b"\n"
    except ValueError:
        lines[at] = changed_bytes(lines[at], others, draw)
    return b"".join(lines)


def changed_pem(data: bytes, others: list[bytes], draw: random.Random) -> bytes:
    """A PEM file after a change of what it encodes, or of its text."""
    head, *middle, tail = data.strip().splitlines()
    if draw.random() < 0.15:
        return changed_bytes(data, others, draw)
    inner = changed_bytes(base64.b64decode(b"".join(middle)), [b"\x30\x80", b"\x02\x01\x00"], draw)
    return b"\n".join([head, base64.encodebytes(inner).strip(), tail, b""])
