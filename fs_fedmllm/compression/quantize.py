"""Symmetric uniform quantisation with one scale per group of values, and two 4-bit values in a byte."""

from __future__ import annotations

import torch
import torch.nn.functional as F

#: Largest quantised magnitude; the range is symmetric, so that 0 is exact and a sign costs nothing.
LEVELS = {"int8": 127, "int4": 7}


def groups(count: int, size: int) -> int:
    """How many scales ``count`` values have, with groups of ``size`` values (0: all of them are one group)."""
    return -(-count // (size or count)) if count else 0


def _rows(values: torch.Tensor, size: int) -> torch.Tensor:
    """(groups, size) of a flat tensor, the last group filled up with zeros."""
    size = size or len(values)
    return F.pad(values, (0, groups(len(values), size) * size - len(values))).view(-1, size)


def quantize(values: torch.Tensor, levels: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Round to the nearest multiple of each group's scale, ties to even.

    A value is off by at most half its group's scale, which is the group's largest magnitude over ``levels``.

    Args:
        values: (n,) float32.
        levels: largest quantised magnitude.
        size: values in a group; 0 is all of them.

    Returns:
        (n,) int8 values in -levels..levels, and (groups,) float32 scales. A group that holds a value that is not
        finite has such a scale, so that whoever decodes it sees that something is wrong.
    """
    if not len(values):
        return values.to(torch.int8), values.clone()
    rows = _rows(values, size)
    scales = rows.abs().amax(dim=1) / levels
    # A group of zeros, or of values so small that the scale underflows, is sent as zeros.
    steps = (rows / scales.unsqueeze(1)).nan_to_num(0.0, 0.0, 0.0).round().clamp(-levels, levels)
    return steps.to(torch.int8).view(-1)[: len(values)], scales


def dequantize(steps: torch.Tensor, scales: torch.Tensor, size: int) -> torch.Tensor:
    """(n,) float32 values of :func:`quantize`'s output."""
    if not len(steps):
        return scales.clone()
    return (_rows(steps.float(), size) * scales.unsqueeze(1)).view(-1)[: len(steps)]


def pack_nibbles(steps: torch.Tensor) -> torch.Tensor:
    """(ceil(n / 2),) uint8 of (n,) int8 values in -8..7: the even positions in the low half of each byte."""
    unsigned = (steps + 8).to(torch.uint8)
    low, high = unsigned[::2], F.pad(unsigned[1::2], (0, len(unsigned) % 2))
    return low | (high << 4)


def unpack_nibbles(packed: torch.Tensor, count: int) -> torch.Tensor:
    """The ``count`` int8 values of :func:`pack_nibbles`'s output."""
    halves = torch.stack([packed & 15, packed >> 4], dim=1).view(-1)[:count]
    return halves.to(torch.int8) - 8
