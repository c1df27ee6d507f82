"""The mean of the adapters of a run's last rounds, beside the last and the best one: ``fedmllm.average_last``.

A is averaged with A and B with B, as FedAvg averages clients: the mean of the products would be of a higher rank. It
is a smoother point of the same path (Izmailov et al. 2018, "Averaging Weights Leads to Wider Optima and Better
Generalization", UAI, arXiv 1803.05407, average along one optimiser's path); the run itself never goes on from it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from fs_fedmllm.algorithms import State
from fs_fedmllm.hub.fetch import AVERAGE
from fs_fedmllm.rounds.federation import Federation
from fs_fedmllm.rounds.schedule import slices_due
from fs_fedmllm.runs.best import write_adapter_folder
from fs_fedmllm.runs.checkpoint import RunState
from fs_fedmllm.runs.run_folder import RunFolder


def kept_rounds(recent: Sequence[State], params: State, count: int) -> list[State]:
    """The last rounds' adapters with that of a round that has ended, oldest first.

    Args:
        recent: those kept so far.
        params: the round's adapter.
        count: ``fedmllm.average_last``; 0 keeps none.
    """
    return [*recent, dict(params)][-count:] if count else []


def mean_adapter(states: Sequence[Mapping[str, torch.Tensor]]) -> State:
    """Their uniform mean, tensor by tensor, summed in float64.

    Args:
        states: at least one, with the same names and shapes.
    """
    return {
        name: torch.stack([state[name].double() for state in states]).mean(0).to(tensor.dtype)
        for name, tensor in states[0].items()
    }


def average_last(federation: Federation, folder: RunFolder, state: RunState) -> tuple[State, dict[str, Any]]:
    """Write the mean of the last rounds' adapters and evaluate it; empty where the run keeps none.

    Returns:
        The mean, and what results.json says of it: ``rounds`` (done by each of them), the figures of an evaluation,
        and ``adapter_sha256``.
    """
    if not state.recent:
        return {}, {}
    mean = mean_adapter(state.recent)
    digest = write_adapter_folder(folder.path / AVERAGE, federation, mean)
    figures = federation.evaluate(mean, slices=slices_due(federation.config, state.round))
    rounds = list(range(state.round - len(state.recent) + 1, state.round + 1))
    return mean, {"rounds": rounds, **figures, "adapter_sha256": digest}
