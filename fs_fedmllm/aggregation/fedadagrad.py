"""FedAdagrad (Reddi et al. 2021, Algorithm 2): v <- v + Delta^2.

Algorithm 2 keeps the first moment (beta1) for all three methods; the authors
code has none for this one: m = Delta in every round.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from fs_fedmllm.aggregation.adaptive import AdaptiveOptimizer


@dataclass(frozen=True)
class FedAdagrad(AdaptiveOptimizer):
    """Sum of squares."""

    name: ClassVar[str] = "fedadagrad"

    def first_moment(self, m: torch.Tensor, delta: torch.Tensor, first: bool) -> torch.Tensor:
        # The authors' code treats every round of this method as it treats the first of the others.
        return super().first_moment(m, delta, True)

    def second_moment(self, v: torch.Tensor, square: torch.Tensor) -> torch.Tensor:
        return v + square
