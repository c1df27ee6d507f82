"""A LoRA rank per client (FlexLoRA: Bai et al. 2024, NeurIPS, arXiv 2402.11505), with the exact mean of products.

A client of rank q gets ``to_rank(params, q)``, the best rank-q part of the global adapter (the factors come sorted by
singular value), and sends factors of rank q, which ``from_rank`` pads with zeros.
"""

from __future__ import annotations

from collections.abc import Mapping

from fs_fedmllm.algorithms.client import ClientHalf
from fs_fedmllm.algorithms.factors import pairs
from fs_fedmllm.algorithms.state import State
from fs_fedmllm.errors import UpdateError
from fs_fedmllm.lazy import torch


def to_rank(params: Mapping[str, torch.Tensor], rank: int) -> State:
    """The adapter for a client of a lower rank: the first rows of each A and columns of each B."""
    state = dict(params)
    for a, b in pairs(params):
        state[a], state[b] = params[a][:rank].clone(), params[b][:, :rank].clone()
    return state


def from_rank(state: Mapping[str, torch.Tensor], params: State, *, scale: float = 1.0) -> State:
    """A client's factors at the global rank: padded with zeros, so that the product stays the same.

    Args:
        state: what the client trained.
        params: the global adapter.
        scale: the client's LoRA scaling (alpha / rank) over the global one; B takes it.

    Raises:
        UpdateError: the client's rank is above the global one, or a shape does not fit at all.
    """
    padded = dict(state)
    for a, b in pairs(state):
        if a not in params or b not in params:
            continue  # nobody's: whoever checks the update says so
        rank = state[a].shape[0] if state[a].dim() else 0
        narrow_a, narrow_b = (rank, *params[a].shape[1:]), (*params[b].shape[:1], rank, *params[b].shape[2:])
        if (state[a].shape, state[b].shape) != (narrow_a, narrow_b) or not 0 < rank <= params[a].shape[0]:
            raise UpdateError(
                f"{a!r} has shape {tuple(state[a].shape)} and its B {tuple(state[b].shape)}, which do not fit into "
                f"{tuple(params[a].shape)} and {tuple(params[b].shape)}."
            )
        padded[a], padded[b] = torch.zeros_like(params[a]), torch.zeros_like(params[b])
        padded[a][:rank], padded[b][:, :rank] = state[a].float(), state[b].float() * scale
    return padded


class RankedClient(ClientHalf):
    """A client that trains and sends an adapter of its own rank.

    Args:
        rank: its rank, at most the global one.
    """

    def __init__(self, rank: int):
        self._rank = rank

    def begin(self, received: Mapping[str, torch.Tensor], kept: Mapping[str, torch.Tensor], start: State) -> State:
        # The model has slots of the global rank. Rows of A and columns of B that are zero get no gradient and no
        # weight decay, so the client trains exactly a rank-q adapter with the global scale alpha / r.
        return from_rank(to_rank(start, self._rank), start)

    def finish(self, trained: State, sent: State) -> tuple[State, State]:
        return to_rank(sent, self._rank), {}
