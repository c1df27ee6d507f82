"""FediLoRA's layer-wise editing (Yang et al. 2025, "FediLoRA: Heterogeneous LoRA for Federated Multimodal Fine-tuning
under Missing Modalities", arXiv 2509.06984): a client repairs the layer in which it has moved furthest away.

    l* = argmin over layers of s_l,   s_l = cos(vec A_l, vec A_l^global)
    A_l* <- (1 - s_l*) A_l*^global + s_l* A_l*

after local training, where s_l* is below a limit (0.95 in the authors' code). Its other half, the dimension-wise mean,
is :mod:`fs_fedmllm.aggregators.dimension_wise`. Decided here: the global adapter is the one that the client's update
began from, as the authors' code takes the last round's, in the first round too; a similarity below 0 counts as 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from fs_fedmllm.algorithms.client import ClientContext, ClientHalf
from fs_fedmllm.algorithms.factors import FACTORED, is_a
from fs_fedmllm.algorithms.regularizer import Regularizer
from fs_fedmllm.algorithms.state import State
from fs_fedmllm.keys import SHARE, key
from fs_fedmllm.lazy import torch


@dataclass(frozen=True)
class FediLoRAConfig:
    """``fedmllm.fedilora``: with ``fedmllm.regularizer.type: fedilora``."""

    similarity: float = key(0.95, "A layer is edited where its cosine to the global one is below this.", valid=SHARE)


class FediLoRA(Regularizer):
    """The layer-wise editing."""

    name: ClassVar[str] = "fedilora"
    section: ClassVar[str] = "fedilora"
    parameters: ClassVar[type | None] = FediLoRAConfig

    @classmethod
    def client(cls, parameters: FediLoRAConfig, context: ClientContext) -> FediLoRAClient:
        return FediLoRAClient(parameters)

    @classmethod
    def faults(cls, config: Any) -> Iterator[str]:
        if config.model.fedmllm.peft not in FACTORED:
            yield (
                f"fedmllm.regularizer.type fedilora edits LoRA's A, and model.fedmllm.peft "
                f"{config.model.fedmllm.peft} has none. Use one of {', '.join(FACTORED)}."
            )
        if config.fedmllm.aggregation.lora == "frozen_a":
            yield "fedmllm.regularizer.type fedilora edits A, and fedmllm.aggregation.lora frozen_a freezes it."
        if config.method.keeps:
            yield (
                f"fedmllm.regularizer.type fedilora changes an adapter after its training, and federate.method "
                f"{config.federate.method} sums what the training moved. Use another method."
            )


def edited(
    local: Mapping[str, torch.Tensor], received: Mapping[str, torch.Tensor], similarity: float
) -> tuple[State, str | None]:
    """The adapter with its least similar A brought back, and the name of that; None where none is below the limit.

    Args:
        local: the trained adapter.
        received: the global one, with the same shapes.
        similarity: the limit.
    """
    found: dict[str, float] = {}
    for name, tensor in local.items():
        if is_a(name) and name in received:
            mine, theirs = tensor.double().flatten(), received[name].double().flatten()
            size = float(mine.norm() * theirs.norm())
            found[name] = max(0.0, float(mine @ theirs) / size) if size else 1.0
    if not found:
        return dict(local), None
    least = min(found, key=lambda name: found[name])
    if found[least] >= similarity:
        return dict(local), None
    share = found[least]
    return {**local, least: (1 - share) * received[least].float() + share * local[least]}, least


class FediLoRAClient(ClientHalf):
    """The editing of one update."""

    def __init__(self, parameters: FediLoRAConfig):
        self._similarity = parameters.similarity
        self._start: State = {}

    def begin(self, received: Mapping[str, torch.Tensor], kept: Mapping[str, torch.Tensor], start: State) -> State:
        self._start = dict(start)
        return start

    def finish(self, trained: State, sent: State) -> tuple[State, State]:
        like = {
            name: self._start[name][: tensor.shape[0]] if is_a(name) else self._start[name]
            for name, tensor in sent.items()
            if name in self._start  # of a lower rank: the rows that the client has
        }
        return edited(sent, like, self._similarity)[0], {}
