"""MOON (Li, He and Song 2021, "Model-Contrastive Federated Learning", CVPR, equations 3 and 5).

    L = L_task + mu l,   l = -log exp(cos(z, z_glob) / tau) / (exp(cos(z, z_glob) / tau) + exp(cos(z, z_prev) / tau))

z is a row's representation by the model that is being trained, z_glob by the global one and z_prev by the client's
own after its last turn. For a language model with LoRA, z is what enters the LM head in the column that predicts the
answer's first token: the first place that the forced choice reads (with letters the only one), and there is no
projection head to add. The global
and the previous representations are taken once per update and row, without dropout, so an update costs one training
pass and two forward passes. A client without a past has no z_prev; its first update is without the term.

A client keeps its adapter as it was after its last update.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from fs_fedmllm.algorithms.client import ClientContext, ClientHalf, Represent
from fs_fedmllm.algorithms.regularizer import Regularizer
from fs_fedmllm.algorithms.state import State
from fs_fedmllm.keys import NOT_NEGATIVE, POSITIVE, key
from fs_fedmllm.lazy import torch

#: In front of a tensor's name in what a client keeps.
PREVIOUS = "moon/"


@dataclass(frozen=True)
class MoonConfig:
    """``fedmllm.moon``: with ``fedmllm.regularizer.type: moon``."""

    mu: float = key(1.0, "Weight of the contrastive loss.", valid=NOT_NEGATIVE)
    temperature: float = key(0.5, "Of the contrastive loss.", valid=POSITIVE)


class Moon(Regularizer):
    """The contrastive term."""

    name: ClassVar[str] = "moon"
    section: ClassVar[str] = "moon"
    parameters: ClassVar[type | None] = MoonConfig
    private: ClassVar[bool] = False
    remembers: ClassVar[bool] = True
    represents: ClassVar[bool] = True

    @classmethod
    def client(cls, parameters: MoonConfig, context: ClientContext) -> MoonClient:
        return MoonClient(parameters, context)

    @classmethod
    def faults(cls, config: Any) -> Iterator[str]:
        if not config.method.federated:
            yield (
                "fedmllm.regularizer.type moon compares the global model with the client's own, which are one under "
                f"federate.method {config.federate.method}. Set it to none."
            )


class MoonClient(ClientHalf):
    """The contrastive term of one update."""

    def __init__(self, parameters: MoonConfig, context: ClientContext):
        self._mu = parameters.mu
        self._temperature = parameters.temperature
        self._names = context.names
        self._previous: State = {}

    def begin(self, received: Mapping[str, torch.Tensor], kept: Mapping[str, torch.Tensor], start: State) -> State:
        if any(name.startswith(PREVIOUS) for name in kept):
            self._previous = {name: kept[PREVIOUS + name] for name in self._names}
        self.represents = bool(self._previous) and self._mu > 0
        return start

    def prepare(self, represent: Represent) -> None:
        self._near = represent(None)
        self._far = represent(self._previous)

    def row_loss(self, indices: Sequence[int], representations: torch.Tensor, rows: int) -> torch.Tensor:
        near, far = (torch.stack([of[i] for i in indices]) for of in (self._near, self._far))
        return self._mu / rows * contrastive_loss(representations, near, far, self._temperature)

    def finish(self, trained: State, sent: State) -> tuple[State, State]:
        return sent, {PREVIOUS + name: tensor for name, tensor in trained.items()}


def contrastive_loss(
    z: torch.Tensor, z_global: torch.Tensor, z_previous: torch.Tensor, temperature: float
) -> torch.Tensor:
    """Equation 3, summed over rows.

    Args:
        z: (rows, width), with gradient.
        z_global: (rows, width).
        z_previous: (rows, width).
        temperature: tau.
    """
    near = torch.nn.functional.cosine_similarity(z, z_global, dim=-1) / temperature
    far = torch.nn.functional.cosine_similarity(z, z_previous, dim=-1) / temperature
    return torch.nn.functional.softplus(far - near).sum()
