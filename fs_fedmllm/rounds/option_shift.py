"""The task's loss where an algorithm shifts the logits of the options' deciding tokens: the same in both trainers."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fs_fedmllm.evaluation.options import OptionTokens
from fs_fedmllm.models.batch import IGNORED, Batch


def shifted_logits(
    logits: torch.Tensor, labels: torch.Tensor, options: OptionTokens, shift: Sequence[float]
) -> torch.Tensor:
    """The logits with each option's shift on its deciding token, in the one column of a row that predicts that token.

    Args:
        logits: (rows, columns, vocabulary); a column predicts the label of the next.
        labels: (rows, columns) token ids, ``IGNORED`` where there is no answer.
        options: the options as tokens.
        shift: one number an option.
    """
    logits = logits.float()  # as the loss takes them; a shift is smaller than what half precision tells apart
    rows = torch.arange(len(labels), device=logits.device)
    first = (labels != IGNORED).int().argmax(dim=1).to(logits.device)  # of the answer
    column = first + len(options.prefix) - 1
    decisions = torch.tensor(options.decisions, device=logits.device)
    added = torch.tensor(shift, dtype=logits.dtype, device=logits.device).expand(len(labels), -1)
    places = (rows[:, None].expand_as(added), column[:, None].expand_as(added), decisions.expand_as(added))
    return logits.index_put(places, added, accumulate=True)


def task_loss_sum(
    batch: Batch, logits: torch.Tensor, options: OptionTokens | None, shift: Sequence[float]
) -> torch.Tensor:
    """Cross-entropy summed over the supervised tokens of a pass.

    Args:
        batch: with labels.
        logits: of the labels' columns.
        options: the options as tokens; None for open answers, which nothing shifts.
        shift: one number an option; empty leaves every logit as it is.
    """
    if not shift or options is None:
        return batch.loss_sum(logits)
    return batch.loss_sum(shifted_logits(logits, batch.labels, options, shift))
