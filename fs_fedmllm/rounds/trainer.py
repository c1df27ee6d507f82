"""Local training, whoever does it: what an update is to do, and what came of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from fs_fedmllm.algorithms import ClientHalf, State
from fs_fedmllm.errors import UpdateError
from fs_fedmllm.models.batch import Encoded


@dataclass(frozen=True)
class UpdatePlan:
    """What one client does in one round.

    Attributes:
        batches: row indices of each optimizer step.
        lr: the round's learning rate.
        lr_inner: schedule inside the update, ``constant`` or ``cosine``.
        dropout_seed: seed of the dropout masks.
        halves: the algorithms' parts, in this order.
    """

    batches: Sequence[Sequence[int]]
    lr: float
    lr_inner: str = "constant"
    dropout_seed: int = 0
    halves: Sequence[ClientHalf] = ()

    @property
    def rows(self) -> list[int]:
        """Indices of the rows that are trained on, ascending."""
        return sorted({index for batch in self.batches for index in batch})

    @property
    def option_shift(self) -> tuple[float, ...]:
        """What the halves add to the options' logits, by option; empty where that is nothing at all."""
        shifts = [half.option_shift for half in self.halves if any(half.option_shift)]
        return tuple(float(sum(own)) for own in zip(*shifts, strict=True))


@dataclass(frozen=True)
class UpdateLog:
    """What an update reports (Figures 13 and 14 of the paper plot the means over rounds).

    Attributes:
        loss: mean task loss per supervised token, over the update's steps.
        penalty: mean value of the regulariser and of the algorithm's own terms.
        grad_norm: mean gradient norm before clipping.
        steps: optimizer steps taken.
        rows: rows processed.
        seconds: duration.
    """

    loss: float
    penalty: float
    grad_norm: float
    steps: int
    rows: int
    seconds: float


def update_log(
    losses: Sequence[torch.Tensor],
    penalties: Sequence[torch.Tensor],
    norms: Sequence[torch.Tensor],
    *,
    rows: int,
    seconds: float,
) -> UpdateLog:
    """The figures of an update from those of its steps.

    Args:
        losses: task loss of each step, scalar tensors.
        penalties: what was added to it, likewise.
        norms: gradient norms before clipping, likewise.
        rows: rows processed.
        seconds: duration.

    Raises:
        UpdateError: the loss, or what was added to it, is not finite.
    """
    loss = float(torch.stack(tuple(losses)).mean())
    if not math.isfinite(loss):
        raise UpdateError(f"the training loss is {loss} after {len(losses)} steps")
    penalty = float(torch.stack([value.cpu() for value in penalties]).mean())
    if not math.isfinite(penalty):
        raise UpdateError(f"what the algorithm adds to the training loss is {penalty} after {len(losses)} steps")
    return UpdateLog(
        loss=loss,
        penalty=penalty,
        grad_norm=float(torch.stack(tuple(norms)).mean()),
        steps=len(losses),
        rows=rows,
        seconds=seconds,
    )


class LocalTrainer(Protocol):
    """Trains an adapter on a client's rows. It keeps nothing from one call to the next."""

    def fit(self, start: State, rows: Mapping[int, Encoded], plan: UpdatePlan) -> tuple[State, UpdateLog]:
        """Train.

        Args:
            start: the adapter to start from, float32, by canonical name.
            rows: the client's encoded rows by index, at least those that the plan names.
            plan: what to do.

        Returns:
            The trained adapter, by the same names, and figures.

        Raises:
            UpdateError: the loss is not finite.
        """
