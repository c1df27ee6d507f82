"""FFA-LoRA (Sun et al. 2024, "Improving LoRA in Privacy-preserving Federated Learning", ICLR, arXiv 2403.12313).

    W_k = W_0 + B_k A_0  with A_0 drawn once and frozen  =>  mean_k(B_k) A_0 = mean_k(B_k A_0)

Averaging both factors is not averaging their product: mean(B) mean(A) != mean(B A). With A the same for everyone the
mean of B is exact, half as many bytes travel, and only B has to be trained. It is a mask on names: on the client A
does not move and is not sent, and on the server nobody may contribute to it.
"""

from __future__ import annotations

from collections.abc import Mapping

from fs_fedmllm.algorithms.client import ClientContext, ClientHalf
from fs_fedmllm.algorithms.factors import is_a
from fs_fedmllm.algorithms.state import State
from fs_fedmllm.lazy import torch


def without_a(state: Mapping[str, torch.Tensor]) -> State:
    """The part of an adapter, or of a difference between two, that is federated."""
    return {name: tensor for name, tensor in state.items() if not is_a(name)}


class FrozenAClient(ClientHalf):
    """A client that trains and sends everything but A."""

    def __init__(self, context: ClientContext):
        self.frozen = context.frozen

    def finish(self, trained: State, sent: State) -> tuple[State, State]:
        return without_a(sent), {}
