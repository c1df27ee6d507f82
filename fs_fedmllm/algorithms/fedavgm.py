"""FedAvgM (Hsu, Qi and Brown 2019): m <- beta m + Delta; W <- W + lr m, sample-weighted.

``fedavgm: first_delta_full`` is the authors' code: m = Delta in round 0, then 0.9 m + 0.1 Delta, so the first
round counts ten times as much as any later one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fs_fedmllm.algorithms.server import ServerOptimizer, advance, is_first_round
from fs_fedmllm.algorithms.state import State
from fs_fedmllm.lazy import torch


@dataclass(frozen=True)
class FedAvgM(ServerOptimizer):
    """Server momentum."""

    name: ClassVar[str] = "fedavgm"

    def init(self, params: State) -> State:
        return {"round": torch.zeros(1)} | {f"m.{name}": torch.zeros_like(p) for name, p in params.items()}

    def step(self, params: State, state: State, mean_delta: State) -> tuple[State, State]:
        new, moved = dict(params), dict(state)
        upstream = self.switches.get("fedavgm") == "first_delta_full"
        first = is_first_round(state)
        for name, delta in mean_delta.items():
            momentum = state[f"m.{name}"]
            if not upstream:
                momentum = self.beta1 * momentum + delta
            elif first:
                momentum = delta
            else:
                momentum = self.beta1 * momentum + (1 - self.beta1) * delta
            moved[f"m.{name}"] = momentum
            new[name] = advance(params[name], self.lr * momentum)
        moved["round"] = state["round"] + 1
        return new, moved
