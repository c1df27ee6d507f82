"""Well-formed and broken messages as bytes, for tests and fuzzers."""

from __future__ import annotations

import hashlib
import json
import random
import struct
from collections.abc import Iterator
from typing import Any

import torch

from fs_fedmllm.distributed.contracts import FrameLimits
from fs_fedmllm.distributed.frames import CHUNK, MAGIC, PREFIX, encode
from fs_fedmllm.distributed.messages import VERSION, Message

#: Small limits, so that a test can pass them without gigabytes.
LIMITS = FrameLimits(message_bytes=4 << 20, header_bytes=64 << 10, index_bytes=64 << 10, tensors=200)
HEADER = b'{"kind":"update","header":{"round":1}}'


def cut(data: bytes) -> Iterator[bytes]:
    """The chunks that a sender makes of these bytes."""
    for start in range(0, len(data), CHUNK):
        yield data[start : start + CHUNK]


def joined(message: Message) -> bytes:
    return b"".join(encode(message))


def entry(code: str = "F32", shape: Any = (2,), start: Any = 0, end: Any = 8) -> dict[str, Any]:
    return {"dtype": code, "shape": list(shape), "data_offsets": [start, end]}


def frame(
    header: bytes = HEADER,
    index: bytes | dict[str, Any] | None = None,
    data: bytes = b"",
    *,
    magic: bytes = MAGIC,
    version: int = VERSION,
    zero: int = 0,
    header_size: int | None = None,
    size: int | None = None,
    index_size: int | None = None,
    digest: bytes | None = None,
    tail: bytes = b"",
) -> bytes:
    """A message by hand; every length can be a lie, and the digest is right unless it is given."""
    index = json.dumps(index or {}).encode() if not isinstance(index, bytes) else index
    found = PREFIX.pack(
        magic,
        version,
        zero,
        len(header) if header_size is None else header_size,
        8 + len(index) + len(data) if size is None else size,
    )
    found += header + struct.pack("<Q", len(index) if index_size is None else index_size) + index + data
    return found + (hashlib.sha256(found).digest() if digest is None else digest) + tail


def floats(*values: float) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


def sample_message() -> Message:
    """Some of everything that travels."""
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "layers.0.q.lora_A": torch.randn(8, 16, generator=generator),
        "layers.0.q.lora_B": torch.randn(16, 8, generator=generator).bfloat16(),
        "half": torch.randn(3, generator=generator).half(),
        "größe/ß.重み": torch.arange(5, dtype=torch.int8),
        "scalar": torch.tensor(3.5, dtype=torch.float64),
        "nothing": torch.empty(0, 7),
        "turned": torch.arange(12, dtype=torch.int32).reshape(3, 4).t(),
        "bytes": torch.arange(9, dtype=torch.uint8),
        "long": torch.tensor([2**62, -1]),
        "short": torch.tensor([[7]], dtype=torch.int16),
    }
    header = {"round": 3, "client": 4, "loss": 0.1, "text": "naïve ✓", "list": [1, None, True, {"a": []}]}
    return Message("update", header, tensors)


NUMBERS = (0, 1, 7, 8, 12, 255, 2**31, 2**32 - 1, 2**53, 2**63, 2**64 - 1, -1, 1.5, True, None, "8", [])
_TYPES = ("I64", "F64", "F16", "BF16", "I8", "BOOL", "C64", "F8_E5M2", "", 3, None, [])
HEADERS = (
    *(b"", b"{}", b"\xff", b"[" * 2000),
    *(b'{"kind":"k","header":{"a":1e400}}', b'{"kind":"k","header":{},"kind":"k"}'),
)


def mutant(draw: random.Random) -> bytes:
    """A message with some of its structure, lengths or bytes changed; the digest is right unless bytes changed."""
    index: dict[Any, Any] = {}
    offset = 0
    for i in range(draw.randrange(4)):
        index[f"t{i}"] = entry(start=offset, end=offset + 8)
        offset += 8
    for name in list(index):
        match draw.randrange(12):
            case 0:
                index[name]["dtype"] = draw.choice(_TYPES)
            case 1:
                index[name]["shape"] = [draw.choice(NUMBERS) for _ in range(draw.randrange(10))]
            case 2:
                index[name]["data_offsets"] = [draw.choice(NUMBERS) for _ in range(draw.randrange(4))]
            case 3:
                index[name]["data_offsets"][draw.randrange(2)] += draw.choice((-8, -1, 1, 8))
            case 4:
                index[draw.choice(("", "__metadata__", "t0", "x" * 600, "\ud800", "\n"))] = index.pop(name)
            case 5:
                index[name] = draw.choice(NUMBERS)
            case 6:
                index[name][draw.choice(("dtype", "shape", "data_offsets", "more"))] = draw.choice(NUMBERS)
    raw = json.dumps(index).encode()
    if draw.random() < 0.1:
        raw = raw.replace(b'"t1"', b'"t0"')
    lies: dict[str, Any] = {}
    if draw.random() < 0.3:
        lies[draw.choice(("size", "index_size"))] = draw.choice((0, 7, 8, len(raw), 2**31, 2**63, 2**64 - 1))
    if draw.random() < 0.1:
        lies["header_size"] = draw.choice((0, 1, 2**31, 2**32 - 1))
    if draw.random() < 0.05:
        lies |= draw.choice(({"version": draw.randrange(9)}, {"tail": bytes(9)}, {"zero": 1}, {"magic": b"XXXX"}))
    values = [draw.choice((0.0, -1.5, 3e38, float("nan"), float("inf"))) for _ in range(offset // 4)]
    if draw.random() < 0.7:
        values = [1.0] * len(values)
    header = draw.choice(HEADERS) if draw.random() < 0.15 else HEADER
    data = bytearray(frame(header, raw, floats(*values), **lies))
    if draw.random() < 0.2:
        for _ in range(draw.randrange(1, 4)):
            data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    return bytes(data[: draw.randrange(len(data) + 1)] if draw.random() < 0.1 else data)
