"""SCAFFOLD's client (Karimireddy et al. 2020, "SCAFFOLD: Stochastic Controlled Averaging", ICML, Algorithm 1).

    y <- y - eta_l (g_i(y) - c_i + c)                          every local step
    c_i+ <- c_i - c + (x - y_i) / (K eta_l)                    option II, after K steps

Option II reads the mean gradient off the distance travelled, which is only right for plain SGD: AdamW's steps are not
multiples of gradients, and (x - y_i) / (K eta_l) would have another unit than the c_i - c that it is added to. With
SGD the two lines give, exactly,

    c_i+ = c_i - c + 1/K sum_k (g_i(y_k) - c_i + c) = 1/K sum_k g_i(y_k),

the mean of the task's gradients along the turn. That is what is computed here; it needs no assumption about the local
optimizer. The correction c - c_i goes onto the gradient, before clipping and before AdamW's moments, so AdamW sees an
estimate of the gradient of the mean of all clients' losses.

A client keeps c_i, one adapter in size, and starts with c_i = 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fs_fedmllm.training.correction import add


class ScaffoldCorrection:
    """The correction of one turn.

    Args:
        shift: c - c_i for each of the adapter's tensors.
    """

    def __init__(self, shift: Sequence[torch.Tensor]):
        self._shift = shift
        self._sum = [torch.zeros_like(tensor) for tensor in shift]
        self._steps = 0

    def add_gradient(
        self, parameters: Sequence[torch.nn.Parameter], anchors: Sequence[torch.Tensor], step: int, steps: int
    ) -> torch.Tensor:
        """Remember the task's gradient and add c - c_i to it."""
        for parameter, total, shift in zip(parameters, self._sum, self._shift, strict=True):
            if parameter.grad is not None:
                total.add_(parameter.grad)
            add(parameter, shift)
        self._steps += 1
        return torch.zeros(())

    def variate(self) -> list[torch.Tensor]:
        """c_i+: the mean of the task's gradients so far."""
        return [total / self._steps for total in self._sum]
