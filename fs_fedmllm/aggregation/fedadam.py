"""FedAdam (Reddi et al. 2021, Algorithm 2): v <- beta2 v + (1 - beta2) Delta^2."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from fs_fedmllm.aggregation.adaptive import AdaptiveOptimizer


@dataclass(frozen=True)
class FedAdam(AdaptiveOptimizer):
    """Exponential mean of squares."""

    name: ClassVar[str] = "fedadam"

    def second_moment(self, v: torch.Tensor, square: torch.Tensor) -> torch.Tensor:
        return self.beta2 * v + (1 - self.beta2) * square
