"""SCAFFOLD (Karimireddy et al. 2020, "SCAFFOLD: Stochastic Controlled Averaging", ICML, Algorithm 1).

    client   y <- y - eta_l (g_i(y) - c_i + c)                 every local step
             c_i+ <- c_i - c + (x - y_i) / (K eta_l)           option II, after K steps
    server   x <- x + eta_g / |S| sum_i (y_i - x),    c <- c + 1/N sum_{i in S} (c_i+ - c_i)

so c stays the mean of all N clients' variates, those that have not taken part yet having c_i = 0. A client is sent x
and c and sends back y_i and c_i+ - c_i: twice the bytes. It keeps c_i, one adapter in size, and starts with c_i = 0.

Option II reads the mean gradient off the distance travelled, which is only right for plain SGD: AdamW's steps are not
multiples of gradients, and (x - y_i) / (K eta_l) would have another unit than the c_i - c that it is added to. With
SGD the two lines give, exactly,

    c_i+ = c_i - c + 1/K sum_k (g_i(y_k) - c_i + c) = 1/K sum_k g_i(y_k),

the mean of the task's gradients along the update. That is what is computed here; it needs no assumption about the
local optimizer. The correction c - c_i goes onto the gradient, before clipping and before AdamW's moments, so AdamW
sees an estimate of the gradient of the mean of all clients' losses.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from fs_fedmllm.algorithms.client import ClientContext, ClientHalf, add_gradient
from fs_fedmllm.algorithms.server import CorrectedOptimizer, advance
from fs_fedmllm.algorithms.state import State
from fs_fedmllm.lazy import torch

#: In front of a tensor's name: the variate c on its way to a client, and its change on the way back.
VARIATE = "scaffold/"


@dataclass(frozen=True)
class Scaffold(CorrectedOptimizer):
    """Uniform mean, and the mean of the clients' variates."""

    name: ClassVar[str] = "scaffold"
    keeps: ClassVar[str] = "variates"

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

    @classmethod
    def client(cls, parameters: Any, context: ClientContext) -> ScaffoldClient:
        return ScaffoldClient(context)

    @classmethod
    def faults(cls, config: Any) -> Iterator[str]:
        chosen, section = config.fedmllm.aggregation, "fedmllm.aggregation"
        if (chosen.max_update_norm > 0) != (chosen.max_variate_norm > 0):
            yield (
                "a client of federate.method scaffold sends its adapter and the change of its variate, and a bound on "
                f"one is worthless without the other's: set both {section}.max_update_norm and "
                f"{section}.max_variate_norm, or neither."
            )


class ScaffoldClient(ClientHalf):
    """The correction c - c_i, and the next c_i."""

    corrects: ClassVar[bool] = True

    def __init__(self, context: ClientContext):
        self._names = context.names
        self._device = context.device
        self._variates: State = {}

    def begin(self, received: Mapping[str, torch.Tensor], kept: Mapping[str, torch.Tensor], start: State) -> State:
        names = [f"{VARIATE}{name}" for name in self._names]
        zeros = (torch.zeros_like(start[name]) for name in self._names)
        self._variates = {name: kept.get(name, zero) for name, zero in zip(names, zeros, strict=True)}
        self._shift = [(received[name] - c_i).to(self._device) for name, c_i in self._variates.items()]
        self._sum = [torch.zeros_like(shift) for shift in self._shift]
        self._steps = 0
        return start

    def correct(
        self, parameters: Sequence[torch.nn.Parameter], anchors: Sequence[torch.Tensor], step: int, steps: int
    ) -> torch.Tensor:
        """Remember the task's gradient and add c - c_i to it."""
        for parameter, total, shift in zip(parameters, self._sum, self._shift, strict=True):
            if parameter.grad is not None:
                total.add_(parameter.grad)
            add_gradient(parameter, shift)
        self._steps += 1
        return torch.zeros(())

    def variates(self) -> State:
        """c_i+ by name, on the CPU: the mean of the task's gradients so far."""
        means = ((total / self._steps).to(device="cpu", dtype=torch.float32) for total in self._sum)
        return dict(zip(self._variates, means, strict=True))

    def finish(self, trained: State, sent: State) -> tuple[State, State]:
        fresh = self.variates()
        federated = [name for name in fresh if name.removeprefix(VARIATE) in sent]
        return sent | {name: fresh[name] - self._variates[name] for name in federated}, fresh
