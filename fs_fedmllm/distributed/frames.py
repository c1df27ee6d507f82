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
from dataclasses import dataclass
from typing import Any

import torch

from fs_fedmllm.distributed.errors import ContractError, FrameError, VersionError
from fs_fedmllm.distributed.messages import VERSION, Message, read_header, read_json, shown, write_header

MAGIC = b"FMLM"
PREFIX = struct.Struct("<4sHHIQ")
INDEX_LENGTH = struct.Struct("<Q")
#: Bytes in a chunk; part of the protocol.
CHUNK = 1 << 20
DIGEST_SIZE = 32
MAX_NAME = 512
MAX_DIMENSIONS = 8
#: Dtypes that travel, by safetensors' names. No bool or complex numbers: nothing of ours sends them.
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
}
_CODES = {dtype: code for code, dtype in DTYPES.items()}
#: Values whose finiteness is looked at in one go, so that the check's own memory stays small.
_LOOK = 1 << 20


@dataclass(frozen=True)
class FrameLimits:
    """The largest message that is read, whatever the contract says.

    Attributes:
        message_bytes: the tensors' part, index included.
        header_bytes: the JSON header.
        index_bytes: safetensors' JSON index.
        tensors: number of tensors.
    """

    message_bytes: int = 4 << 30
    header_bytes: int = 1 << 20
    index_bytes: int = 4 << 20
    tensors: int = 20_000


@dataclass(frozen=True)
class TensorSpec:
    """What one tensor must be.

    Attributes:
        dtype: its dtype.
        shape: its dimensions; None is any length (the contract's ``max_bytes`` bounds it).
    """

    dtype: torch.dtype
    shape: tuple[int | None, ...]


@dataclass(frozen=True)
class Contract:
    """What the tensors of one message must be; checked before memory is allocated and before anybody sees them.

    Attributes:
        tensors: the names and what belongs to each; None takes any names.
        partial: whether some of them may be missing.
        finite: whether floating-point values must be finite.
        max_bytes: most bytes of tensor data; None leaves it to the shapes and the limits.
    """

    tensors: Mapping[str, TensorSpec] | None = None
    partial: bool = False
    finite: bool = True
    max_bytes: int | None = None

    @classmethod
    def like(cls, tensors: Mapping[str, torch.Tensor], *, partial: bool = False, finite: bool = True) -> Contract:
        """Exactly the names, dtypes and shapes of these tensors, for example of the global adapter."""
        specs = {name: TensorSpec(t.dtype, tuple(t.shape)) for name, t in tensors.items()}
        return cls(specs, partial, finite)


#: No tensors at all.
NO_TENSORS = Contract({})
#: Any tensors within the limits, finite.
ANY_TENSORS = Contract()


@dataclass(frozen=True)
class _Entry:
    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    size: int


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
        _check_name(name)
        if tensor.layout != torch.strided or tensor.dtype not in _CODES or tensor.is_meta:
            raise FrameError(f"The tensor {shown(name)} cannot be sent: {tensor.dtype}, {tensor.layout}.")
        if tensor.dim() > MAX_DIMENSIONS:
            raise FrameError(f"The tensor {shown(name)} has more than {MAX_DIMENSIONS} dimensions.")
        end = offset + tensor.numel() * tensor.element_size()
        entries[name] = {"dtype": _CODES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [offset, end]}
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
        raise FrameError("These bytes are no message of fs-fedmllm.")
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
    _check_size(contract, size)
    reserve(size)
    (index_size,) = INDEX_LENGTH.unpack(source.take(INDEX_LENGTH.size))
    if index_size > min(limits.index_bytes, size - INDEX_LENGTH.size, _index_bound(contract)):
        raise FrameError(f"An index of {index_size:,} bytes is announced, which is more than this message can need.")
    entries = _read_index(source.take(index_size), size - INDEX_LENGTH.size - index_size, limits)
    _check_contract(contract, entries)
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


def _check_name(name: object) -> None:
    try:
        fine = isinstance(name, str) and 0 < len(name.encode()) <= MAX_NAME and name != "__metadata__"
    except UnicodeEncodeError:
        fine = False
    if not fine:
        raise FrameError(f"{shown(name)} cannot be a tensor's name: UTF-8 text of 1 to {MAX_NAME} bytes is.")


def _read_index(data: bytes, total: int, limits: FrameLimits) -> list[_Entry]:
    """Check safetensors' index: tensors lie one behind the other and fill the data exactly."""
    raw = read_json(data)
    if not isinstance(raw, dict):
        raise FrameError("The index of tensors is no mapping.")
    if len(raw) > limits.tensors:
        raise FrameError(f"A message has {len(raw):,} tensors; the limit is {limits.tensors:,}.")
    entries = []
    offset = 0
    for name, entry in raw.items():
        _check_name(name)
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
        entries.append(_Entry(name, dtype, tuple(shape), size))
        offset += size
    if offset != total:
        raise FrameError(f"The tensors have {offset:,} bytes, but {total:,} are announced.")
    return entries


def _whole_numbers(value: object) -> bool:
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)


def _index_bound(contract: Contract) -> int:
    """The longest index that the contract's names can need."""
    if contract.tensors is None:
        return 1 << 62
    # A name may be written with escapes, six bytes for one; the rest of an entry is at most 8 + 2 numbers.
    return 64 + sum(6 * len(name.encode()) + 320 for name in contract.tensors)


def _check_size(contract: Contract, size: int) -> None:
    """Refuse a size that the contract rules out, before the index is read."""
    most = contract.max_bytes
    if contract.tensors is not None and all(None not in spec.shape for spec in contract.tensors.values()):
        exact = sum(math.prod(n or 0 for n in spec.shape) * spec.dtype.itemsize for spec in contract.tensors.values())
        most = exact if most is None else min(most, exact)
    if most is not None and size > INDEX_LENGTH.size + _index_bound(contract) + most:
        raise ContractError(f"Tensors of {size:,} bytes are announced, where {most:,} are expected.")


def _check_contract(contract: Contract, entries: list[_Entry]) -> None:
    if contract.max_bytes is not None and sum(entry.size for entry in entries) > contract.max_bytes:
        raise ContractError(f"The tensors have more than the {contract.max_bytes:,} bytes that are expected.")
    if contract.tensors is None:
        return
    for entry in entries:
        spec = contract.tensors.get(entry.name)
        if spec is None:
            raise ContractError(f"The tensor {shown(entry.name)} is not expected.")
        if entry.dtype != spec.dtype:
            raise ContractError(f"The tensor {shown(entry.name)} is {entry.dtype}, where {spec.dtype} is expected.")
        if len(entry.shape) != len(spec.shape) or any(
            want not in (None, got) for got, want in zip(entry.shape, spec.shape, strict=True)
        ):
            raise ContractError(
                f"The tensor {shown(entry.name)} has the shape {entry.shape}, where {spec.shape} is expected."
            )
    if not contract.partial and len(entries) != len(contract.tensors):
        missing = next(name for name in contract.tensors if name not in {entry.name for entry in entries})
        raise ContractError(
            f"{len(contract.tensors) - len(entries)} of {len(contract.tensors)} tensors are missing, the first of "
            f"them {shown(missing)}."
        )


def check_tensors(tensors: Mapping[str, torch.Tensor], contract: Contract, limits: FrameLimits | None = None) -> None:
    """Hold tensors that came by another way than these frames to a contract.

    Args:
        tensors: by name; of any origin.
        contract: what they must be.
        limits: the largest message that is taken.

    Raises:
        ContractError: the tensors are not what the contract says.
        FrameError: one could not travel in a frame, or all together are above the limits.
    """
    limits = limits or FrameLimits()
    if len(tensors) > limits.tensors:
        raise FrameError(f"A message has {len(tensors):,} tensors; the limit is {limits.tensors:,}.")
    entries = []
    for name, tensor in tensors.items():
        _check_tensor(name, tensor)
        size = tensor.numel() * tensor.element_size()
        entries.append(_Entry(name, tensor.dtype, tuple(tensor.shape), size))
    if (total := sum(entry.size for entry in entries)) > limits.message_bytes:
        raise FrameError(f"Tensors of {total:,} bytes came; the limit is {limits.message_bytes:,}.")
    _check_contract(contract, entries)
    if contract.finite:
        for name, tensor in tensors.items():
            _check_finite(name, tensor)


def _check_tensor(name: object, tensor: object) -> None:
    _check_name(name)
    if type(tensor) is not torch.Tensor or tensor.layout != torch.strided or tensor.dtype not in _CODES:
        kind = f"{tensor.dtype}, {tensor.layout}" if isinstance(tensor, torch.Tensor) else type(tensor).__name__
        raise FrameError(f"The tensor {shown(name)} does not travel: {kind}.")
    if tensor.is_meta or tensor.dim() > MAX_DIMENSIONS:
        raise FrameError(f"The tensor {shown(name)} has no values, or more than {MAX_DIMENSIONS} dimensions.")


def _check_finite(name: str, tensor: torch.Tensor) -> None:
    if tensor.dtype.is_floating_point:
        for part in tensor.reshape(-1).split(_LOOK):
            if not bool(torch.isfinite(part).all()):
                raise ContractError(f"The tensor {shown(name)} holds values that are not finite.")


def _read_tensor(source: _Source, entry: _Entry, finite: bool) -> torch.Tensor:
    tensor = torch.empty(entry.shape, dtype=entry.dtype)
    if entry.size:
        source.into(_bytes_of(tensor))
    if finite:
        _check_finite(entry.name, tensor)
    return tensor
