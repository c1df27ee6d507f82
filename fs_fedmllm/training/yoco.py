"""YOCO's one-round training of LoRA (the FedMLLM authors' later work, NeurIPS 2025; their branch ``yoco``).

    L = L_task + lambda(t) ||A'A - I||_F^2 + ||tanh(alpha(t) B) - sign(B_0)||_F / (||sign(B_0)||_F + 1e-6)
    B_0 = U_r sqrt(S_r) of the frozen weight W = U S V',   alpha: 1 -> 200 half-cosine over the turn's steps,
    lambda: 0.1 -> 0.01, linear in alpha

All clients start from B_0, so the sign of B, which averaging after one long round would otherwise cancel, is shared
from the start; A is drawn as ever, so B_0 A is not zero and the first adapter is not a no-op. The server's part is
any one-round mean. Decided here: the two terms are summed over all adapted matrices (the authors adapt one, the last
layer's query projection: set ``model.fedmllm.lora.target`` for that), and the d x d matrix A'A is never built:
||A'A - I||^2 = ||A A'||^2 - 2 ||A||^2 + d.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from fs_fedmllm.config import YocoConfig
from fs_fedmllm.training.correction import add


def schedule(config: YocoConfig, step: int, steps: int) -> tuple[float, float]:
    """Sharpness alpha and Gram weight lambda of a step; the first step has the start values, the last the end ones."""
    done = step / (steps - 1) if steps > 1 else 0.0
    share = (1 - math.cos(math.pi * done)) / 2
    sharpness = config.sharpness_start + share * (config.sharpness_end - config.sharpness_start)
    return sharpness, config.gram_start + share * (config.gram_end - config.gram_start)


def gram_loss(a: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """||A'A - I||_F^2 of an r x d matrix, and its gradient 4 (A A' A - A)."""
    product = a @ a.T
    value = product.square().sum() - 2 * a.square().sum() + a.shape[1]
    return value, 4 * (product @ a - a)


def sign_loss(b: torch.Tensor, signs: torch.Tensor, sharpness: float) -> tuple[torch.Tensor, torch.Tensor]:
    """||tanh(alpha B) - signs||_F / (||signs||_F + 1e-6), and its gradient; 0 where the loss is 0."""
    soft = torch.tanh(sharpness * b)
    distance, size = (soft - signs).norm(), signs.norm() + 1.0e-6
    slope = (soft - signs) * (1 - soft.square()) * (sharpness / (distance.clamp(min=1.0e-12) * size))
    return distance / size, slope


def initial_b(weight: torch.Tensor, rank: int) -> torch.Tensor:
    """B_0 = U_r sqrt(S_r), with the sign of each column fixed by its largest entry.

    Args:
        weight: the frozen matrix, outputs x inputs.
        rank: r.
    """
    u, s, _ = torch.linalg.svd(weight.double(), full_matrices=False)
    b = u[:, :rank] * s[:rank].sqrt()
    largest = b.gather(0, b.abs().argmax(dim=0, keepdim=True))
    b = b * torch.where(largest < 0, -1.0, 1.0)
    padded = torch.zeros(weight.shape[0], rank, dtype=torch.float64)
    padded[:, : b.shape[1]] = b
    return padded.float()


def initial_state(state: Mapping[str, torch.Tensor], base: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The adapter with every B replaced by B_0.

    Args:
        state: a fresh adapter.
        base: the frozen weight that each B's name belongs to.
    """
    return {
        name: initial_b(base[name].float(), tensor.shape[1]) if name in base else tensor
        for name, tensor in state.items()
    }


@dataclass(frozen=True)
class YocoCorrection:
    """The two terms of one turn.

    Attributes:
        config: ``fedmllm.yoco``.
        pairs: positions of the (A, B) factors among the adapter's tensors.
        signs: sign(B_0) of each pair.
    """

    config: YocoConfig
    pairs: Sequence[tuple[int, int]]
    signs: Sequence[torch.Tensor]

    def add_gradient(
        self, parameters: Sequence[torch.nn.Parameter], anchors: Sequence[torch.Tensor], step: int, steps: int
    ) -> torch.Tensor:
        """Add both terms' gradients."""
        sharpness, gram = schedule(self.config, step, steps)
        value = torch.zeros((), device=parameters[0].device)
        for (a, b), signs in zip(self.pairs, self.signs, strict=True):
            gram_value, gram_slope = gram_loss(parameters[a].detach())
            sign_value, sign_slope = sign_loss(parameters[b].detach(), signs, sharpness)
            add(parameters[a], gram * gram_slope)
            add(parameters[b], self.config.sign * sign_slope)
            value = value + gram * gram_value + self.config.sign * sign_value
        return value
