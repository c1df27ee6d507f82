"""A row as integers, and rows as the inputs of one forward pass."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F

IGNORED = -100


@dataclass(frozen=True, slots=True)
class Encoded:
    """One row as integers.

    Attributes:
        prompt: token ids up to and including the assistant's header; image placeholders expanded.
        completion: token ids of the answer and of the end of the turn.
        extras: further inputs with one value per prompt token, such as ``mm_token_type_ids``.
        image: path of the row's image, or None.
        source: for error messages.
        shortened: whether a part of the row's text or question was left out.
    """

    prompt: tuple[int, ...]
    completion: tuple[int, ...]
    extras: dict[str, tuple[int, ...]]
    image: str | None
    source: str
    shortened: bool = False


@dataclass
class Batch:
    """Inputs of one forward pass.

    Attributes:
        inputs: keyword arguments of ``forward``.
        labels: (rows, longest completion + 1) token ids of the last columns, ``IGNORED`` where there is no answer.
            The first column never holds an answer: logits of a column predict the label of the next.
    """

    inputs: dict[str, Any]
    labels: torch.Tensor = field(default_factory=lambda: torch.empty(0, 0, dtype=torch.long))

    def loss_sum(self, logits: torch.Tensor) -> torch.Tensor:
        """Cross-entropy summed over the supervised tokens.

        Args:
            logits: (rows, columns of ``labels``, vocabulary), of the last columns.
        """
        return F.cross_entropy(
            logits[:, :-1].reshape(-1, logits.shape[-1]).float(),
            self.labels[:, 1:].reshape(-1),
            ignore_index=IGNORED,
            reduction="sum",
        )

    def row_losses(self, logits: torch.Tensor) -> torch.Tensor:
        """(rows,) mean cross-entropy over the supervised tokens of each row; 0 for a row without any.

        Args:
            logits: as for :meth:`loss_sum`.
        """
        labels = self.labels[:, 1:]
        each = F.cross_entropy(logits[:, :-1].transpose(1, 2).float(), labels, ignore_index=IGNORED, reduction="none")
        return each.sum(1) / (labels != IGNORED).sum(1).clamp(min=1)

    def representations(self, head_input: torch.Tensor) -> torch.Tensor:
        """What stands for each row in the model, (rows, width) in float32.

        It is what enters the LM head in the column that predicts the answer's first token: the first place that the
        forced choice reads, and where options have letters the only one.

        Args:
            head_input: (rows, columns of ``labels``, width), of the last columns.
        """
        first = (self.labels != IGNORED).int().argmax(dim=1)
        rows = torch.arange(len(self.labels), device=head_input.device)
        return head_input[rows, first.to(head_input.device) - 1].float()

    @property
    def supervised(self) -> int:
        """Number of supervised tokens."""
        return int((self.labels != IGNORED).sum())
