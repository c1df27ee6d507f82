"""What an algorithm does to a client's gradients, between the backward pass and clipping."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch


class Correction(Protocol):
    """One algorithm's part of a turn."""

    def add_gradient(
        self, parameters: Sequence[torch.nn.Parameter], anchors: Sequence[torch.Tensor], step: int, steps: int
    ) -> torch.Tensor:
        """Change the gradients in place, before the regulariser's are added and before they are clipped.

        Args:
            parameters: the adapter's parameters, with the task's gradients; those without one are left out.
            anchors: the values that the turn started from, same order.
            step: optimizer step of the turn, from 0.
            steps: how many there are.

        Returns:
            The value of what was added to the loss, a scalar tensor.
        """


def add(parameter: torch.nn.Parameter, gradient: torch.Tensor) -> None:
    """Add to a parameter's gradient, which a batch that does not reach the parameter leaves empty."""
    if not parameter.requires_grad:  # frozen for this turn
        return
    if parameter.grad is None:
        parameter.grad = gradient.clone()
    else:
        parameter.grad.add_(gradient)
