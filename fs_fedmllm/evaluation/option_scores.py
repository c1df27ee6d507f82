"""Scores of the options for a batch of prompts: by the options' letters, or in their own words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from fs_fedmllm.evaluation.options import OptionTokens, parted
from fs_fedmllm.evaluation.token_tree import TokenTree, token_trees
from fs_fedmllm.models.mllm import MLLM
from fs_fedmllm.models.reading import Reading

#: Memory of one pass behind the prompts, apart from the prompts' own: the logits of branches in one sequence, or the
#: repeated rows of the cache and their logits. A pass of one branch may take more.
PASS_BYTES = 256 * 2**20


def letter_scores(model: MLLM, inputs: Mapping[str, Any], tokens: OptionTokens) -> torch.Tensor:
    """(rows, options) logits of the deciding tokens, in one pass.

    Args:
        model: not in training.
        inputs: of the batch; prompts end with what the options share.
        tokens: of the options.
    """
    logits = model.last_logits(inputs, 1)[:, -1]
    return logits[:, torch.tensor(tokens.decisions, device=logits.device)]


def word_scores(model: MLLM, inputs: Mapping[str, Any], tokens: OptionTokens) -> torch.Tensor:
    """(rows, options) log-likelihoods of what the options say behind what they share.

    The prompts are read once, what texts begin with alike for one row, and what options say is passed behind them from
    the model's cache, once for options that begin alike. Where the model takes it, all options are one pass, in which
    each token sees what it follows; elsewhere the branches of the options are rows of a batch. The log-likelihood of
    an option is the sum over its tokens and the end of its turn.

    Args:
        model: not in training.
        inputs: of the batch; prompts end with what the options share.
        tokens: of the options.
    """
    sequences = tokens.sequences
    rows = len(inputs["input_ids"])
    trees = list(token_trees(sequences, max(1, PASS_BYTES // (4 * rows * model.vocabulary))))
    further = max(len(tree.nodes.tokens) for tree in trees)
    reading = model.read(inputs, further, trees[0].nodes)
    found = torch.zeros(rows, len(sequences), dtype=torch.float64)
    if model.takes_branches(reading, further):
        _in_one_sequence(model, reading, sequences, trees, found)
    else:
        _in_a_batch(model, reading, sequences, found)
    return found


def _said(logits: torch.Tensor, tokens: Sequence[int], columns: Sequence[int]) -> torch.Tensor:
    """(rows, tokens) log-likelihoods of tokens, each by the logits of its column, on the CPU."""
    logs = logits.float().log_softmax(-1)
    where = torch.tensor(columns, device=logs.device), torch.tensor(tokens, device=logs.device)
    return logs[:, where[0], where[1]].double().cpu()


def _in_one_sequence(
    model: MLLM,
    reading: Reading,
    sequences: Sequence[Sequence[int]],
    trees: Sequence[TokenTree],
    found: torch.Tensor,
) -> None:
    """Add the options' log-likelihoods, trees of options being sequences with a mask of their own."""
    found += _said(reading.logits, [sequence[0] for sequence in sequences], [-1] * len(sequences))
    for at, tree in enumerate(trees):
        if not tree.nodes.tokens:  # one token each
            continue
        logits = reading.ahead if at == 0 and reading.ahead is not None else model.branches(reading, tree.nodes)
        ends = [(option, node, token) for option, nodes in zip(tree.members, tree.said, strict=True)
                for node, token in zip(nodes, sequences[option][1:], strict=True)]  # fmt: skip
        options, nodes, said = zip(*ends, strict=True)
        found.index_add_(1, torch.tensor(options), _said(logits, said, nodes))


def _in_a_batch(model: MLLM, reading: Reading, sequences: Sequence[Sequence[int]], found: torch.Tensor) -> None:
    """Add the options' log-likelihoods, branches being rows that go on side by side.

    Branches that were begun go on together by as many tokens as all of them can before one ends or parts.
    """
    rows = len(found)

    def descend(reading: Reading, branches: Sequence[Sequence[int]], depth: int) -> None:
        """Each of these branches' options have their first ``depth`` tokens in common, and those are read."""
        further: list[tuple[int, list[int]]] = []  # the branch that it follows, and the options
        logs = reading.logits[:, -1].float().log_softmax(-1).reshape(len(branches), rows, -1)
        for at, members in enumerate(branches):
            for token, own in parted(sequences, members, depth).items():
                found[:, own] += logs[at, :, token].double().cpu()[:, None]
                if len(sequences[own[0]]) > depth + 1:  # the last token is predicted, not read
                    further.append((at, own))
        del logs
        if not further:
            return
        end = min(_common(sequences, own, depth) for _, own in further)
        together = _together(reading, rows, end - depth)
        for start in range(0, len(further), together):
            part = further[start : start + together]
            parents = torch.tensor([at for at, _ in part])
            chosen = (parents[:, None] * rows + torch.arange(rows)).reshape(-1)
            ids = torch.tensor([sequences[own[0]][depth:end] for _, own in part]).repeat_interleave(rows, dim=0)
            read = model.go_on(reading, ids, chosen)
            if end - depth > 1:
                inner = read.logits[:, :-1].float().log_softmax(-1)
                worth = inner.gather(-1, ids[:, 1:, None].to(inner.device)).double().sum((1, 2)).cpu()
                for (_, own), values in zip(part, worth.reshape(-1, rows), strict=True):
                    found[:, own] += values[:, None]
            descend(read, [own for _, own in part], end)

    descend(reading, [range(len(sequences))], 0)


def _common(sequences: Sequence[Sequence[int]], members: Sequence[int], depth: int) -> int:
    """Up to where options that do not part at ``depth`` can be read before they part, or one but its last token."""
    first, end = sequences[members[0]], depth + 1
    while end < len(first) - 1 and len(parted(sequences, members, end)) == 1:
        end += 1
    return end


def _together(reading: Reading, rows: int, tokens: int) -> int:
    """How many branches one pass may take by so many tokens."""
    if not reading.spreads:
        return 1
    each = rows * (reading.row_bytes + 4 * tokens * reading.logits.shape[-1])
    return max(1, PASS_BYTES // max(1, each))
