"""FedYogi (Reddi et al. 2021, Algorithm 2): v <- v - (1 - beta2) Delta^2 sign(v - Delta^2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from fs_fedmllm.aggregation.adaptive import AdaptiveOptimizer


@dataclass(frozen=True)
class FedYogi(AdaptiveOptimizer):
    """Additive control of the second moment."""

    name: ClassVar[str] = "fedyogi"

    def second_moment(self, v: torch.Tensor, square: torch.Tensor) -> torch.Tensor:
        return v - (1 - self.beta2) * square * torch.sign(v - square)
