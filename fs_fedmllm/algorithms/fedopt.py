"""FedAdagrad, FedAdam and FedYogi (Reddi et al. 2021, "Adaptive Federated Optimization", ICLR, Algorithm 2).

    m <- beta1 m + (1 - beta1) Delta,  W <- W + eta m / (sqrt(v) + tau), where

    FedAdagrad  v <- v + Delta^2
    FedAdam     v <- beta2 v + (1 - beta2) Delta^2
    FedYogi     v <- v - (1 - beta2) Delta^2 sign(v - Delta^2)

with a uniform mean over the round's clients, m = 0 and v = tau^2 at the start, and no bias correction.
``fedopt: first_delta_full`` is the authors' code: m = Delta in round 0 (for FedAdagrad in every round), and
the second moment is fed with m^2 instead of Delta^2.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from fs_fedmllm.algorithms.server import ServerOptimizer, advance, is_first_round
from fs_fedmllm.algorithms.state import State
from fs_fedmllm.lazy import torch


@dataclass(frozen=True)
class AdaptiveOptimizer(ServerOptimizer):
    """Algorithm 2; a method supplies the update of the second moment."""

    weighting: ClassVar[str] = "uniform"
    default_lr: ClassVar[float] = 1.0e-3

    @abstractmethod
    def second_moment(self, v: torch.Tensor, square: torch.Tensor) -> torch.Tensor:
        """The new second moment from the old one and the squared delta, elementwise."""

    def first_moment(self, m: torch.Tensor, delta: torch.Tensor, first: bool) -> torch.Tensor:
        """The new first moment."""
        if first and self.switches.get("fedopt") == "first_delta_full":
            return delta
        return self.beta1 * m + (1 - self.beta1) * delta

    def init(self, params: State) -> State:
        state: State = {"round": torch.zeros(1)}
        for name, p in params.items():
            state[f"m.{name}"] = torch.zeros_like(p)
            state[f"v.{name}"] = torch.full_like(p, self.tau**2)
        return state

    def step(self, params: State, state: State, mean_delta: State) -> tuple[State, State]:
        new, moved = dict(params), dict(state)
        upstream = self.switches.get("fedopt") == "first_delta_full"
        first = is_first_round(state)
        for name, delta in mean_delta.items():
            m = self.first_moment(state[f"m.{name}"], delta, first)
            v = self.second_moment(state[f"v.{name}"], (m if upstream else delta).square())
            moved[f"m.{name}"], moved[f"v.{name}"] = m, v
            new[name] = advance(params[name], self.lr * m / (v.sqrt() + self.tau))
        moved["round"] = state["round"] + 1
        return new, moved


@dataclass(frozen=True)
class FedAdagrad(AdaptiveOptimizer):
    """Sum of squares.

    Algorithm 2 keeps the first moment (beta1) for all three methods; the authors' code has none for this one:
    m = Delta in every round.
    """

    name: ClassVar[str] = "fedadagrad"

    def first_moment(self, m: torch.Tensor, delta: torch.Tensor, first: bool) -> torch.Tensor:
        # The authors' code treats every round of this method as it treats the first of the others.
        return super().first_moment(m, delta, True)

    def second_moment(self, v: torch.Tensor, square: torch.Tensor) -> torch.Tensor:
        return v + square


@dataclass(frozen=True)
class FedAdam(AdaptiveOptimizer):
    """Exponential mean of squares."""

    name: ClassVar[str] = "fedadam"

    def second_moment(self, v: torch.Tensor, square: torch.Tensor) -> torch.Tensor:
        return self.beta2 * v + (1 - self.beta2) * square


@dataclass(frozen=True)
class FedYogi(AdaptiveOptimizer):
    """Additive control of the second moment."""

    name: ClassVar[str] = "fedyogi"

    def second_moment(self, v: torch.Tensor, square: torch.Tensor) -> torch.Tensor:
        return v - (1 - self.beta2) * square * torch.sign(v - square)
