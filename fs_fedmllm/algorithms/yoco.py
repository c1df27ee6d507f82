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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from fs_fedmllm.algorithms.client import ClientContext, ClientHalf, add_gradient
from fs_fedmllm.algorithms.factors import FACTORED, pairs
from fs_fedmllm.algorithms.regularizer import Regularizer
from fs_fedmllm.algorithms.state import State
from fs_fedmllm.keys import NOT_NEGATIVE, POSITIVE, key
from fs_fedmllm.lazy import torch


@dataclass(frozen=True)
class YocoConfig:
    """``fedmllm.yoco``: with ``fedmllm.regularizer.type: yoco``, one round."""

    gram_start: float = key(0.1, "Weight of ||A'A - I||^2 at the update's first step.", valid=NOT_NEGATIVE)
    gram_end: float = key(0.01, "The same at its last step.", valid=NOT_NEGATIVE)
    sign: float = key(1.0, "Weight of the sign loss of B.", valid=NOT_NEGATIVE)
    sharpness_start: float = key(1.0, "Slope of tanh in the sign loss at the first step.", valid=POSITIVE)
    sharpness_end: float = key(200.0, "The same at the last step.", valid=POSITIVE)


class Yoco(Regularizer):
    """The Gram term of A and the sign term of B."""

    name: ClassVar[str] = "yoco"
    section: ClassVar[str] = "yoco"
    parameters: ClassVar[type | None] = YocoConfig
    private: ClassVar[bool] = False
    reads_base: ClassVar[bool] = True

    @classmethod
    def client(cls, parameters: YocoConfig, context: ClientContext) -> YocoClient:
        return YocoClient(parameters, context)

    @classmethod
    def initial_state(cls, state: State, base_weights: Mapping[str, torch.Tensor]) -> State:
        return {
            name: initial_b(base_weights[name].float(), tensor.shape[1]) if name in base_weights else tensor
            for name, tensor in state.items()
        }

    @classmethod
    def faults(cls, config: Any) -> Iterator[str]:
        if config.federate.total_round_num != 1:
            yield (
                f"fedmllm.regularizer.type yoco is a one-round method, and federate.total_round_num is "
                f"{config.federate.total_round_num}. Set it to 1."
            )
        if config.fedmllm.aggregation.lora == "frozen_a":
            yield "fedmllm.regularizer.type yoco trains A, and fedmllm.aggregation.lora frozen_a freezes it."
        if config.model.fedmllm.peft not in FACTORED or config.model.fedmllm.quantization.type != "none":
            yield (
                "fedmllm.regularizer.type yoco takes B from the base's own matrices: use model.fedmllm.peft lora, and "
                "set model.fedmllm.quantization.type to none."
            )
        if config.federate.restore_from:
            yield "fedmllm.regularizer.type yoco starts B from the base's weights, not from federate.restore_from."


def schedule(parameters: YocoConfig, step: int, steps: int) -> tuple[float, float]:
    """Sharpness alpha and Gram weight lambda of a step; the first step has the start values, the last the end ones."""
    done = step / (steps - 1) if steps > 1 else 0.0
    share = (1 - math.cos(math.pi * done)) / 2
    sharpness = parameters.sharpness_start + share * (parameters.sharpness_end - parameters.sharpness_start)
    return sharpness, parameters.gram_start + share * (parameters.gram_end - parameters.gram_start)


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


class YocoClient(ClientHalf):
    """The two terms of one update."""

    corrects: ClassVar[bool] = True

    def __init__(self, parameters: YocoConfig, context: ClientContext):
        self._parameters = parameters
        self._device = context.device
        index = {name: i for i, name in enumerate(context.names)}
        self._found = pairs(context.names)
        self._pairs = [(index[a], index[b]) for a, b in self._found]

    def begin(self, received: Mapping[str, torch.Tensor], kept: Mapping[str, torch.Tensor], start: State) -> State:
        self._signs = [start[b].sign().to(self._device) for _, b in self._found]
        return start

    def correct(
        self, parameters: Sequence[torch.nn.Parameter], anchors: Sequence[torch.Tensor], step: int, steps: int
    ) -> torch.Tensor:
        """Add both terms' gradients."""
        sharpness, gram = schedule(self._parameters, step, steps)
        value = torch.zeros((), device=parameters[0].device)
        for (a, b), signs in zip(self._pairs, self._signs, strict=True):
            gram_value, gram_slope = gram_loss(parameters[a].detach())
            sign_value, sign_slope = sign_loss(parameters[b].detach(), signs, sharpness)
            add_gradient(parameters[a], gram * gram_slope)
            add_gradient(parameters[b], self._parameters.sign * sign_slope)
            value = value + gram * gram_value + self._parameters.sign * sign_value
        return value
