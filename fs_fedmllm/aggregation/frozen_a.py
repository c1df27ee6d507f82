"""FFA-LoRA (Sun et al. 2024, "Improving LoRA in Privacy-preserving Federated Learning", ICLR, arXiv 2403.12313).

    W_k = W_0 + B_k A_0  with A_0 drawn once and frozen  =>  mean_k(B_k) A_0 = mean_k(B_k A_0)

Averaging both factors is not averaging their product: mean(B) mean(A) != mean(B A). With A the same for everyone the
mean of B is exact, half as many bytes travel, and only B has to be trained. It is a mask on names: apply it on the
client (``freeze``: A must not move there) and on the server (``without_a``: what a client may contribute).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch

from fs_fedmllm.aggregation.base import State
from fs_fedmllm.aggregation.cohort import Updates, weighted_mean


def is_frozen(name: str) -> bool:
    """Whether a canonical name is a LoRA A factor; everything else is trained and sent."""
    return "lora_A" in name or "lora_embedding_A" in name


def freeze(named_parameters: Iterable[tuple[str, torch.nn.Parameter]]) -> list[str]:
    """Freeze the A factors of a model in place; call before the adapter's handles are collected.

    Returns:
        The names that were frozen.
    """
    frozen = []
    for name, parameter in named_parameters:
        if is_frozen(name):
            parameter.requires_grad_(False)
            frozen.append(name)
    return frozen


def without_a(delta: Mapping[str, torch.Tensor]) -> State:
    """The part of a client's delta that FFA-LoRA federates."""
    return {name: tensor for name, tensor in delta.items() if not is_frozen(name)}


def frozen_a_mean(updates: Updates) -> State:
    """The mean delta of everything but A; A's names are absent, so the server leaves them as they are."""
    return weighted_mean([(client, weight, without_a(delta)) for client, weight, delta in updates])
