"""What the tensors of a message must be, and the largest message that is read.

A contract is checked from names, dtypes, shapes and sizes alone, so before memory is taken for what somebody sends; by
the reader of our own frames as by whatever else brings tensors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from fs_fedmllm.distributed.errors import ContractError, FrameError
from fs_fedmllm.distributed.messages import shown

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
#: The other way round.
CODES = {dtype: code for code, dtype in DTYPES.items()}
#: Values whose finiteness is looked at in one go, so that the check's own memory stays small.
_LOOK = 1 << 20
#: Bytes that say how long safetensors' index is.
_INDEX_LENGTH = 8


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
class Entry:
    """What a message says of one tensor, before its values are there."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    size: int


def check_name(name: object) -> None:
    """Refuse what cannot be a tensor's name.

    Raises:
        FrameError: it is none.
    """
    try:
        fine = isinstance(name, str) and 0 < len(name.encode()) <= MAX_NAME and name != "__metadata__"
    except UnicodeEncodeError:
        fine = False
    if not fine:
        raise FrameError(f"{shown(name)} cannot be a tensor's name: UTF-8 text of 1 to {MAX_NAME} bytes is.")


def index_bound(contract: Contract) -> int:
    """The longest index that the contract's names can need."""
    if contract.tensors is None:
        return 1 << 62
    # A name may be written with escapes, six bytes for one; the rest of an entry is at most 8 + 2 numbers.
    return 64 + sum(6 * len(name.encode()) + 320 for name in contract.tensors)


def check_size(contract: Contract, size: int) -> None:
    """Refuse a size that the contract rules out, before the index is read.

    Args:
        contract: what the tensors must be.
        size: bytes of a safetensors file, index included, or of several files with an index each.

    Raises:
        ContractError: it is more than the contract's tensors can need.
    """
    most = contract.max_bytes
    if contract.tensors is not None and all(None not in spec.shape for spec in contract.tensors.values()):
        exact = sum(math.prod(n or 0 for n in spec.shape) * spec.dtype.itemsize for spec in contract.tensors.values())
        most = exact if most is None else min(most, exact)
    if most is not None and size > _INDEX_LENGTH + index_bound(contract) + most:
        raise ContractError(f"Tensors of {size:,} bytes are announced, where {most:,} are expected.")


def check_entries(contract: Contract, entries: Sequence[Entry]) -> None:
    """Hold what a message says of its tensors to a contract.

    Raises:
        ContractError: the tensors are not what the contract says.
    """
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
        entries.append(Entry(name, tensor.dtype, tuple(tensor.shape), size))
    if (total := sum(entry.size for entry in entries)) > limits.message_bytes:
        raise FrameError(f"Tensors of {total:,} bytes came; the limit is {limits.message_bytes:,}.")
    check_entries(contract, entries)
    if contract.finite:
        for name, tensor in tensors.items():
            check_finite(name, tensor)


def _check_tensor(name: object, tensor: object) -> None:
    check_name(name)
    if type(tensor) is not torch.Tensor or tensor.layout != torch.strided or tensor.dtype not in CODES:
        kind = f"{tensor.dtype}, {tensor.layout}" if isinstance(tensor, torch.Tensor) else type(tensor).__name__
        raise FrameError(f"The tensor {shown(name)} does not travel: {kind}.")
    if tensor.is_meta or tensor.dim() > MAX_DIMENSIONS:
        raise FrameError(f"The tensor {shown(name)} has no values, or more than {MAX_DIMENSIONS} dimensions.")


def check_finite(name: str, tensor: torch.Tensor) -> None:
    """Refuse values that are not finite; of integers all are.

    Raises:
        ContractError: the tensor holds some.
    """
    if tensor.dtype.is_floating_point:
        for part in tensor.reshape(-1).split(_LOOK):
            if not bool(torch.isfinite(part).all()):
                raise ContractError(f"The tensor {shown(name)} holds values that are not finite.")
