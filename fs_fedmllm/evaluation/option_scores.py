"""Scores of the options for a batch of prompts: by the options' letters, or in their own words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from fs_fedmllm.evaluation.options import OptionTokens, parted
from fs_fedmllm.models.mllm import MLLM, Reading


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

    The prompts are read once. What options say is passed behind them from the model's cache, once for options that
    begin alike; the log-likelihood of an option is the sum over its tokens and the end of its turn.

    Args:
        model: not in training.
        inputs: of the batch; prompts end with what the options share.
        tokens: of the options.
    """
    sequences = tokens.sequences
    found = torch.zeros(len(inputs["input_ids"]), len(sequences), dtype=torch.float64)

    def pass_by(reading: Reading, ids: Sequence[int], said: Sequence[int], members: Sequence[int]) -> Reading:
        """Read ``ids``, and add to these options what ``said`` is worth, which follows the first of them."""
        further = model.go_on(reading, ids)
        logs = further.logits[:, : len(said)].float().log_softmax(-1)
        own = logs.gather(
            -1, torch.tensor(said, dtype=torch.long, device=logs.device).expand(len(logs), -1)[..., None]
        )
        found[:, members] += own.double().sum((1, 2)).cpu()[:, None]
        return further

    def descend(reading: Reading, members: Sequence[int], depth: int) -> None:
        """These options' first ``depth`` tokens are read, and they part at the next."""
        logs = reading.logits[:, -1].float().log_softmax(-1)
        for token, own in parted(sequences, members, depth).items():
            found[:, own] += logs[:, token].double().cpu()[:, None]
            sequence, end = sequences[own[0]], depth + 1
            if len(own) > 1:
                while len(parted(sequences, own, end)) == 1:
                    end += 1
                descend(pass_by(reading, sequence[depth:end], sequence[depth + 1 : end], own), own, end)
            elif len(sequence) > end:  # the last token is predicted, not read
                pass_by(reading, sequence[depth:-1], sequence[end:], own)

    descend(model.read(inputs), range(len(sequences)), 0)
    return found
