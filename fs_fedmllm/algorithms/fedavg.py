"""FedAvg (McMahan et al. 2017, Algorithm 1): W <- W + lr * sum_k n_k / N (W_k - W).

``fedavg: accumulate`` reproduces the authors' released function, in which a flag that means "assign, do not
add" is reset once a round instead of once a tensor: the first tensor is averaged, every other one becomes
old + mean, so weights double in every round in which clients change nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fs_fedmllm.algorithms.server import ServerOptimizer, advance
from fs_fedmllm.algorithms.state import State
from fs_fedmllm.lazy import torch


@dataclass(frozen=True)
class FedAvg(ServerOptimizer):
    """Sample-weighted mean."""

    name: ClassVar[str] = "fedavg"

    def init(self, params: State) -> State:
        if self.switches.get("fedavg") != "accumulate":
            return {}
        # Which tensor comes first is part of the state: a checkpoint does not keep the order of names.
        return {f"first.{next(iter(params))}": torch.ones(1)}

    def step(self, params: State, state: State, mean_delta: State) -> tuple[State, State]:
        new = dict(params)
        doubles = self.switches.get("fedavg") == "accumulate"
        for name, delta in mean_delta.items():
            new[name] = advance(params[name], self.lr * delta)
            if doubles and f"first.{name}" not in state:
                new[name] = new[name] + params[name]
        return new, state
