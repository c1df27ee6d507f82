"""The figures of further test sets over a run: evaluated whenever the run's own rows are, and kept apart from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from fs_fedmllm.evaluation.predictions import Prediction, file_of, of_client, shown_as, write_predictions
from fs_fedmllm.rounds.federation import Federation
from fs_fedmllm.rounds.schedule import slices_due
from fs_fedmllm.runs.checkpoint import RunState
from fs_fedmllm.runs.results import closing_figures
from fs_fedmllm.runs.run_folder import ZERO_SHOT, RunFolder


def mean_figures(figures: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The uniform mean over clients of the metrics that all have (the baseline Local)."""
    names = [name for name in figures[0] if all(name in own for own in figures)]
    return {name: sum(own[name] for own in figures) / len(figures) for name in names}


class TestSetScores:
    """Evaluates the further test sets of a run; without any it does nothing.

    Args:
        federation: the run's pieces.
        folder: where predictions go.
        state: of the run; figures are added to ``state.figures["test_sets"]``, by set.
    """

    __test__ = False  # no test class, whatever its name begins with

    def __init__(self, federation: Federation, folder: RunFolder, state: RunState):
        self._federation, self._folder, self._state = federation, folder, state
        self._predictions: dict[str, list[Prediction]] = {}
        if federation.test_sets:
            state.figures.setdefault("test_sets", {name: [] for name in federation.test_sets})

    def evaluate(self, states: Mapping[int, Mapping[str, torch.Tensor]] | None = None) -> dict[str, dict[str, float]]:
        """Figures of every set, by its name.

        Args:
            states: each client's own adapter (the baseline Local), whose figures' mean is given; None evaluates the
                global one.
        """
        done = self._state.round
        slices, found = slices_due(self._federation.config, done), {}
        for name in self._federation.test_sets:
            kept: list[Prediction] = []
            if states is None:
                figures = self._federation.evaluate_test_set(name, self._state.params, slices=slices, keep=kept)
            else:
                each = []
                for client, adapter in sorted(states.items()):
                    own: list[Prediction] = []
                    each.append(self._federation.evaluate_test_set(name, adapter, slices=slices, keep=own))
                    kept += of_client(own, client)
                figures = mean_figures(each)
            self._state.figures["test_sets"][name].append({"round": done, **figures})
            self._predictions[name] = kept
            found[name] = figures
        return found

    def write(self) -> None:
        """Write what the last evaluation predicted."""
        for name, predictions in self._predictions.items():
            write_predictions(self._folder.path / file_of(name), predictions)

    def closing(self) -> dict[str, dict[str, Any]]:
        """By set, what is added at the end; see :func:`fs_fedmllm.runs.results.closing_figures`."""
        data, config = self._federation.data, self._federation.config
        found = {}
        for name, predictions in self._predictions.items():
            template, rows = data.test_sets[name].template, data.test_sets[name].rows
            alike = (template.task, template.options) == (data.template.task, data.template.options)
            clients = data.clients if alike else {}  # labels of other options mean something else
            found[name] = closing_figures(
                config, template, predictions, clients=clients, train=data.dataset.train, test=rows
            )
        return found

    def write_zero_shot(self, own: Sequence[Prediction]) -> None:
        """Keep the answers before round 0, which a judge may grade; a row's likelihoods need no judge.

        Args:
            own: what was predicted for the run's own test rows.
        """
        for name, predictions in {"": own, **self._predictions}.items():
            answers = [p for p in shown_as(predictions, "both") if p.answer is not None and p.reference is not None]
            if answers:
                path = self._folder.path / ZERO_SHOT / file_of(name)
                path.parent.mkdir(exist_ok=True)
                write_predictions(path, answers)
