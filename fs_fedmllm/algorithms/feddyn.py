"""FedDyn (Acar et al. 2021, "Federated Learning Based on Dynamic Regularization", ICLR, Algorithm 1).

    client   theta_k = argmin L_k(theta) - <g_k, theta> + alpha / 2 ||theta - theta_global||^2
             g_k <- g_k - alpha (theta_k - theta_global)
    server   h <- h - alpha / m sum_{k in P} (theta_k - theta),    theta <- 1/|P| sum_{k in P} theta_k - h / alpha

over the round's clients P of m. With D the mean difference and s = |P| / m the share of clients in the round, the
server's line is h <- h - alpha s D and theta <- theta + D - h / alpha.

g_k stands for the gradient of L_k where the client last stopped: at an exact minimum the first line gives
grad L_k(theta_k) = g_k - alpha (theta_k - theta_global), which is the second. The gradient
-g_k + alpha (theta - theta_global) is added before clipping; it has the unit of a gradient whatever the local
optimizer, and AdamW's stationary points are those of the corrected loss. The paper solves the first line (nearly)
exactly: with few local steps g_k lags behind and the server, which adds up all differences, overshoots.

A client keeps g_k, one adapter in size, and starts with g_k = 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from fs_fedmllm.algorithms.client import ClientContext, ClientHalf, add_gradient
from fs_fedmllm.algorithms.server import CorrectedOptimizer, advance
from fs_fedmllm.algorithms.state import State
from fs_fedmllm.keys import POSITIVE, key
from fs_fedmllm.lazy import torch

#: In front of a tensor's name in what a client keeps.
GRADIENT = "feddyn/"


@dataclass(frozen=True)
class FedDynConfig:
    """``fedmllm.feddyn``: with ``federate.method: feddyn``."""

    alpha: float = key(0.01, "Strength of the dynamic regulariser.", valid=POSITIVE)


@dataclass(frozen=True)
class FedDyn(CorrectedOptimizer):
    """Uniform mean, corrected by the sum of what all clients did so far.

    ``lr`` is not read: the paper has none.
    """

    alpha: float = 0.01

    name: ClassVar[str] = "feddyn"
    section: ClassVar[str] = "feddyn"
    parameters: ClassVar[type | None] = FedDynConfig
    keeps: ClassVar[str] = "sum of differences"

    @classmethod
    def build(cls, *, parameters: Any = None, **settings: Any) -> Self:
        return cls(alpha=cls.alpha if parameters is None else parameters.alpha, **settings)

    def init(self, params: State) -> State:
        return super().init(params) | {f"h.{name}": torch.zeros_like(p) for name, p in params.items()}

    def step(self, params: State, state: State, mean_delta: State) -> tuple[State, State]:
        new, moved = dict(params), dict(state)
        for name, delta in mean_delta.items():
            h = state[f"h.{name}"] - self.alpha * state["share"] * delta
            moved[f"h.{name}"] = h
            new[name] = advance(params[name], delta - h / self.alpha)
        return new, moved

    @classmethod
    def client(cls, parameters: Any, context: ClientContext) -> FedDynClient:
        return FedDynClient(parameters.alpha, context)

    @classmethod
    def faults(cls, config: Any) -> Iterator[str]:
        if config.server_lr != 1.0:
            yield "federate.method feddyn has no server learning rate; set fedmllm.server.lr to 1 (or -1)."


class FedDynClient(ClientHalf):
    """The pull towards the global adapter, and the next g_k."""

    corrects: ClassVar[bool] = True

    def __init__(self, alpha: float, context: ClientContext):
        self._alpha = alpha
        self._names = context.names
        self._device = context.device
        self._start: State = {}
        self._gradients: State = {}

    def begin(self, received: Mapping[str, torch.Tensor], kept: Mapping[str, torch.Tensor], start: State) -> State:
        self._start = start
        self._gradients = {name: kept.get(GRADIENT + name, torch.zeros_like(start[name])) for name in self._names}
        self._moved = [gradient.to(self._device) for gradient in self._gradients.values()]
        return start

    def correct(
        self, parameters: Sequence[torch.nn.Parameter], anchors: Sequence[torch.Tensor], step: int, steps: int
    ) -> torch.Tensor:
        """Add -g_k + alpha (theta - theta_global)."""
        value = torch.zeros((), device=parameters[0].device)
        for parameter, anchor, gradient in zip(parameters, anchors, self._moved, strict=True):
            distance = parameter.detach() - anchor
            add_gradient(parameter, self._alpha * distance - gradient)
            value = value + self._alpha / 2 * distance.square().sum() - (gradient * parameter.detach()).sum()
        return value

    def finish(self, trained: State, sent: State) -> tuple[State, State]:
        # On the CPU, where the adapter is kept.
        return sent, {
            GRADIENT + name: gradient - self._alpha * (trained[name] - self._start[name])
            for name, gradient in self._gradients.items()
        }
