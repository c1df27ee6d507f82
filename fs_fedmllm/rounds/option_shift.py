"""The task's loss where an algorithm shifts the logits of the options' deciding tokens: the same in both trainers.

With letters the options part at one token, and each option's shift is added to its own. In words they part at several:
they are a tree of tokens, and at every branching position each branch has a shift, so that those along an option's
path add up to the option's own. Let w be exp(shift) of an option and W the mean of w over the options of a branch. A
branch adds log W(branch) - log W(all options left here); at the first branching, log W(branch). For the label prior
with tau 1, w is the option's share of the client's rows times the number of options, so this is the logarithm of the
branch's conditional share over what an even prior would give it: even labels shift nothing anywhere, and every
branching is the logit adjustment of the choice that is made there. Each branching has a softmax of its own; it is not
one softmax over whole options, which would need a pass of every option for every row that is trained on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from fs_fedmllm.evaluation.options import OptionTokens, parted
from fs_fedmllm.models.batch import IGNORED, Batch


@dataclass(frozen=True)
class Branching:
    """Where options part.

    Attributes:
        tokens: the next token of each branch.
        shifts: what is added to its logit.
    """

    tokens: tuple[int, ...]
    shifts: tuple[float, ...]


def branchings(options: OptionTokens, shift: Sequence[float]) -> dict[tuple[int, ...], Branching]:
    """What is added where, by the tokens of an answer that stand before it.

    Args:
        options: the options as tokens.
        shift: one number an option.
    """
    sequences = options.sequences
    found: dict[tuple[int, ...], Branching] = {}

    def descend(members: Sequence[int], depth: int, above: float) -> None:
        if len(members) < 2:
            return
        branches = parted(sequences, members, depth)
        if len(branches) > 1:
            weights = [_log_mean([shift[i] for i in own]) for own in branches.values()]
            before = (*options.prefix, *sequences[members[0]][:depth])
            found[before] = Branching(tuple(branches), tuple(weight - above for weight in weights))
        for own in branches.values():
            descend(own, depth + 1, _log_mean([shift[i] for i in own]))

    descend(range(len(sequences)), 0, 0.0)
    return found


def _log_mean(shifts: Sequence[float]) -> float:
    """log of the mean of exp; of equal numbers it is exactly that number where it is 0."""
    highest = max(shifts)
    return highest + math.log(sum(math.exp(value - highest) for value in shifts) / len(shifts))


def shifted_logits(
    logits: torch.Tensor, labels: torch.Tensor, options: OptionTokens, shift: Sequence[float]
) -> torch.Tensor:
    """The logits with each branch's shift on its token, in the columns where options part on a row's answer's way.

    Args:
        logits: (rows, columns, vocabulary); a column predicts the label of the next.
        labels: (rows, columns) token ids, ``IGNORED`` where there is no answer.
        options: the options as tokens.
        shift: one number an option.
    """
    logits = logits.float()  # as the loss takes them; a shift is smaller than what half precision tells apart
    places = _places(labels.tolist(), branchings(options, shift))
    if not places:
        return logits
    *at, added = zip(*places, strict=True)
    where = tuple(torch.tensor(part, device=logits.device) for part in at)
    shifts = torch.tensor(added, dtype=logits.dtype, device=logits.device)
    return logits.index_put(where, shifts, accumulate=True)


def _places(
    labels: Sequence[Sequence[int]], branching: Mapping[tuple[int, ...], Branching]
) -> list[tuple[int, int, int, float]]:
    """Row, column, token and what is added there."""
    places = []
    for row, own in enumerate(labels):
        first = next((i for i, label in enumerate(own) if label != IGNORED), len(own))
        for column in range(first, len(own)):
            found = branching.get(tuple(own[first:column]))
            if found is not None:
                places += [(row, column - 1, t, s) for t, s in zip(found.tokens, found.shifts, strict=True)]
    return places


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
