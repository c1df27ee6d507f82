"""SCAFFOLD's server (Karimireddy et al. 2020, "SCAFFOLD: Stochastic Controlled Averaging", ICML, Algorithm 1).

    x <- x + eta_g / |S| sum_i (y_i - x),    c <- c + 1/N sum_{i in S} (c_i+ - c_i)

so c stays the mean of all N clients' variates, those that have not taken part yet having c_i = 0. A client is sent x
and c and sends back y_i and c_i+ - c_i: twice the bytes. What the client does is in
:mod:`fs_fedmllm.training.scaffold`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from fs_fedmllm.aggregation.base import CorrectedOptimizer, State, advance

#: In front of a tensor's name: the variate c on its way to a client, and its change on the way back.
VARIATE = "scaffold/"


@dataclass(frozen=True)
class Scaffold(CorrectedOptimizer):
    """Uniform mean, and the mean of the clients' variates."""

    name: ClassVar[str] = "scaffold"

    def init(self, params: State) -> State:
        return super().init(params) | {f"c.{name}": torch.zeros_like(p) for name, p in params.items()}

    def broadcast(self, params: State, state: State) -> State:
        return params | {f"{VARIATE}{name}": state[f"c.{name}"] for name in params}

    def expected(self, params: State) -> State:
        # The change of a variate is a difference already: it is one to zero.
        return params | {f"{VARIATE}{name}": torch.zeros_like(p) for name, p in params.items()}

    def step(self, params: State, state: State, mean_delta: State) -> tuple[State, State]:
        new, moved = dict(params), dict(state)
        for name, delta in mean_delta.items():
            if name.startswith(VARIATE):
                variate = f"c.{name.removeprefix(VARIATE)}"
                moved[variate] = advance(state[variate], state["share"] * delta)
            else:
                new[name] = advance(params[name], self.lr * delta)
        return new, moved
