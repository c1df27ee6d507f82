"""The one form of state that algorithms work on."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

#: Parameters, deltas and optimizer state alike: name -> float32 tensor. Always serialisable as safetensors.
State = dict[str, "torch.Tensor"]
