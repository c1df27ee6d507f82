"""The length of an update, all its tensors together."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch


def l2_norm(tensors: Mapping[str, torch.Tensor]) -> float:
    """The L2 norm over all tensors together, in double precision."""
    return math.sqrt(sum(float(tensor.double().square().sum()) for tensor in tensors.values()))
