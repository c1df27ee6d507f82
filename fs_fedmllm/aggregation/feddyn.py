"""FedDyn's server (Acar et al. 2021, "Federated Learning Based on Dynamic Regularization", ICLR, Algorithm 1).

    h <- h - alpha / m sum_{k in P} (theta_k - theta),    theta <- 1/|P| sum_{k in P} theta_k - h / alpha

over the round's clients P of m. With D the mean difference and s = |P| / m the share of clients in the round, that
is h <- h - alpha s D and theta <- theta + D - h / alpha. What the client does is in
:mod:`fs_fedmllm.training.feddyn`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from fs_fedmllm.aggregation.base import CorrectedOptimizer, State, advance


@dataclass(frozen=True)
class FedDyn(CorrectedOptimizer):
    """Uniform mean, corrected by the sum of what all clients did so far.

    ``lr`` is not read: the paper has none.
    """

    alpha: float = 0.01

    name: ClassVar[str] = "feddyn"

    def init(self, params: State) -> State:
        return super().init(params) | {f"h.{name}": torch.zeros_like(p) for name, p in params.items()}

    def step(self, params: State, state: State, mean_delta: State) -> tuple[State, State]:
        new, moved = dict(params), dict(state)
        for name, delta in mean_delta.items():
            h = state[f"h.{name}"] - self.alpha * state["share"] * delta
            moved[f"h.{name}"] = h
            new[name] = advance(params[name], delta - h / self.alpha)
        return new, moved
