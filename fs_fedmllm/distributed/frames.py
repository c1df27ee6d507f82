"""Messages as bytes: a stream of chunks out, and a reader that trusts none of them.

One message is, in this order (numbers are little-endian):

==============  ======================================================================================
4 bytes         ``FMLM``
2 bytes         version of the protocol
2 bytes         zero
4 bytes         length of the header
8 bytes         length of the tensors' part
header          UTF-8 JSON, ``{"kind": ..., "header": {...}}``
tensors' part   a safetensors file: 8 bytes length, JSON index, the tensors' bytes in the index's order
32 bytes        sha256 of everything before
==============  ======================================================================================

The stream is cut into chunks of exactly :data:`CHUNK` bytes, of which only the last may be shorter, so nobody can
send a gigabyte as a thousand million chunks. Neither side holds more than the tensors and one chunk: the sender slices
tensors in place, the reader puts bytes straight into new tensors, after names, dtypes, shapes and sizes were checked.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch

from fs_fedmllm.distributed.contracts import (
    CODES,
    DTYPES,
    MAX_DIMENSIONS,
    Contract,
    Entry,
    FrameLimits,
    check_entries,
    check_finite,
    check_name,
    check_size,
    index_bound,
)
from fs_fedmllm.distributed.errors import FrameError, VersionError
from fs_fedmllm.distributed.messages import VERSION, Message, read_header, read_json, shown, write_header

MAGIC = b"FMLM"
PREFIX = struct.Struct("<4sHHIQ")
INDEX_LENGTH = struct.Struct("<Q")
#: Bytes in a chunk; part of the protocol.
CHUNK = 1 << 20
DIGEST_SIZE = 32


def encode(message: Message, limits: FrameLimits | None = None) -> Iterator[bytes]:
    """A message as chunks. It is checked here, before the first chunk is asked for.

    Args:
        message: what to send; its tensors must not change until the last chunk is out.
        limits: what the other side accepts.

    Raises:
        FrameError: a header or tensor cannot travel, or the message is above the limits.
    """
    limits = limits or FrameLimits()
    header, index, data = _plan(message)
    size = INDEX_LENGTH.size + len(index) + data
    for what, value, limit in (
        ("header", len(header), limits.header_bytes),
        ("index of tensors", len(index), limits.index_bytes),
        ("tensors' part", size, limits.message_bytes),
    ):
        if value > limit:
            raise FrameError(f"The {what} of a {message.kind!r} message has {value:,} bytes; the limit is {limit:,}.")
    prefix = PREFIX.pack(MAGIC, VERSION, 0, len(header), size)
    return _chunks(prefix + header + INDEX_LENGTH.pack(len(index)) + index, message.tensors)


def _plan(message: Message) -> tuple[bytes, bytes, int]:
    """Header, index padded to eight bytes as safetensors pads it, and bytes of the tensors."""
    entries: dict[str, Any] = {}
    offset = 0
    for name, tensor in message.tensors.items():
        check_name(name)
        if tensor.layout != torch.strided or tensor.dtype not in CODES or tensor.is_meta:
            raise FrameError(f"The tensor {shown(name)} cannot be sent: {tensor.dtype}, {tensor.layout}.")
        if tensor.dim() > MAX_DIMENSIONS:
            raise FrameError(f"The tensor {shown(name)} has more than {MAX_DIMENSIONS} dimensions.")
        end = offset + tensor.numel() * tensor.element_size()
        entries[name] = {"dtype": CODES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    index = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
    return write_header(message), index + b" " * (-len(index) % 8), offset


def _chunks(head: bytes, tensors: Mapping[str, torch.Tensor]) -> Iterator[bytes]:
    digest = hashlib.sha256()
    room = bytearray()
    for piece in _pieces(head, tensors):
        while piece:
            part = piece[: CHUNK - len(room)]
            piece = piece[len(part) :]
            digest.update(part)
            if len(part) == CHUNK:
                yield bytes(part)
                continue
            room += part
            if len(room) == CHUNK:
                yield bytes(room)
                room.clear()
    room += digest.digest()
    while room:
        yield bytes(room[:CHUNK])
        del room[:CHUNK]


def _pieces(head: bytes, tensors: Mapping[str, torch.Tensor]) -> Iterator[memoryview]:
    yield memoryview(head)
    for tensor in tensors.values():
        yield _bytes_of(tensor.detach().cpu().contiguous())


def _bytes_of(tensor: torch.Tensor) -> memoryview:
    """A dense tensor's memory, in place."""
    return memoryview(tensor.reshape(-1).view(torch.uint8).numpy().data)


def decode(
    chunks: Iterable[bytes],
    contract_for: Callable[[str, Mapping[str, Any]], Contract],
    limits: FrameLimits | None = None,
    reserve: Callable[[int], None] = lambda size: None,
) -> Message:
    """Read one message from chunks that may come from anybody.

    Args:
        chunks: the chunks; exactly one message.
        contract_for: kind and header -> what the tensors must be. It may raise to refuse the message.
        limits: the largest message that is read.
        reserve: called once with the size of the tensors' part, before anything of that size is allocated. It may
            wait (the sender then waits too) or raise.

    Raises:
        VersionError: another version of the protocol.
        ContractError: the tensors are not what the contract says.
        FrameError: the bytes are malformed, too large, damaged, or more or less than one message.
    """
    limits = limits or FrameLimits()
    source = _Source(chunks)
    magic, version, zero, header_size, size = PREFIX.unpack(source.take(PREFIX.size))
    if magic != MAGIC:
        raise FrameError("These bytes are not a message of fs-fedmllm.")
    if version != VERSION:
        raise VersionError(
            f"The other side speaks version {version} of the protocol and this one speaks version {VERSION}; "
            "install the same release of fs-fedmllm on both."
        )
    if zero:
        raise FrameError("The reserved bytes of a message are not zero.")
    if header_size > limits.header_bytes:
        raise FrameError(f"A header of {header_size:,} bytes is announced; the limit is {limits.header_bytes:,}.")
    if not INDEX_LENGTH.size <= size <= limits.message_bytes:
        raise FrameError(
            f"Tensors of {size:,} bytes are announced; the limit is {limits.message_bytes:,} "
            "(fedmllm.network.max_message)."
        )
    kind, header = read_header(source.take(header_size))
    contract = contract_for(kind, header)
    check_size(contract, size)
    reserve(size)
    (index_size,) = INDEX_LENGTH.unpack(source.take(INDEX_LENGTH.size))
    if index_size > min(limits.index_bytes, size - INDEX_LENGTH.size, index_bound(contract)):
        raise FrameError(f"An index of {index_size:,} bytes is announced, which is more than this message can need.")
    entries = _read_index(source.take(index_size), size - INDEX_LENGTH.size - index_size, limits)
    check_entries(contract, entries)
    tensors = {entry.name: _read_tensor(source, entry, contract.finite) for entry in entries}
    expected = source.digest()
    if source.take(DIGEST_SIZE) != expected:
        raise FrameError("A message is damaged: its sha256 differs.")
    source.end()
    return Message(kind, header, tensors)


class _Source:
    """Bytes out of chunks, with their digest; never more than one chunk in hand."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._rest = memoryview(b"")
        self._short = False
        self._hash = hashlib.sha256()

    def take(self, size: int) -> bytes:
        """So many bytes; they are gathered as they come, so a size alone allocates nothing."""
        found = bytearray()
        while len(found) < size:
            found += self._next(size - len(found))
        return bytes(found)

    def into(self, target: memoryview) -> None:
        """Fill this memory."""
        done = 0
        while done < len(target):
            part = self._next(len(target) - done)
            target[done : done + len(part)] = part
            done += len(part)

    def digest(self) -> bytes:
        """sha256 of what was taken so far."""
        return self._hash.digest()

    def end(self) -> None:
        """Nothing may follow."""
        if self._rest or next(self._chunks, None) is not None:
            raise FrameError("Bytes follow after the end of a message.")

    def _next(self, most: int) -> memoryview:
        if not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                raise FrameError("A message ends early.")
            if self._short or not 0 < len(chunk) <= CHUNK:
                raise FrameError(f"A message is not cut into chunks of {CHUNK:,} bytes.")
            self._short = len(chunk) < CHUNK
            self._rest = memoryview(chunk)
        part = self._rest[:most]
        self._rest = self._rest[most:]
        self._hash.update(part)
        return part


def _read_index(data: bytes, total: int, limits: FrameLimits) -> list[Entry]:
    """Check safetensors' index: tensors lie one behind the other and fill the data exactly."""
    raw = read_json(data)
    if not isinstance(raw, dict):
        raise FrameError("The index of tensors is not a mapping.")
    if len(raw) > limits.tensors:
        raise FrameError(f"A message has {len(raw):,} tensors; the limit is {limits.tensors:,}.")
    entries = []
    offset = 0
    for name, entry in raw.items():
        check_name(name)
        if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
            raise FrameError(f"The index entry of {shown(name)} is not dtype, shape and data_offsets.")
        code, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not isinstance(code, str) or code not in DTYPES:
            raise FrameError(f"The tensor {shown(name)} has the dtype {shown(code)}, which does not travel.")
        if not _whole_numbers(shape) or len(shape) > MAX_DIMENSIONS:
            raise FrameError(f"The tensor {shown(name)} has no valid shape.")
        dtype = DTYPES[code]
        # Zeros count as ones here: an empty tensor must not have dimensions that overflow a stride.
        if math.prod(max(length, 1) for length in shape) > limits.message_bytes:
            raise FrameError(f"The tensor {shown(name)} has a shape beyond the limit of {limits.message_bytes:,}.")
        size = math.prod(shape) * dtype.itemsize
        if not _whole_numbers(offsets) or offsets != [offset, offset + size]:
            raise FrameError(f"The tensor {shown(name)} does not lie right behind the one before it.")
        entries.append(Entry(name, dtype, tuple(shape), size))
        offset += size
    if offset != total:
        raise FrameError(f"The tensors have {offset:,} bytes, but {total:,} are announced.")
    return entries


def _whole_numbers(value: object) -> bool:
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)


def _read_tensor(source: _Source, entry: Entry, finite: bool) -> torch.Tensor:
    tensor = torch.empty(entry.shape, dtype=entry.dtype)
    if entry.size:
        source.into(_bytes_of(tensor))
    if finite:
        check_finite(entry.name, tensor)
    return tensor
