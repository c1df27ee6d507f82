"""What is evaluated in a run, and what is kept of it: figures, the best adapter, predictions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from fs_fedmllm.evaluation.predictions import FILE as PREDICTIONS
from fs_fedmllm.evaluation.predictions import Prediction, of_client, write_predictions
from fs_fedmllm.models.export import write_adapter
from fs_fedmllm.rounds.federation import Federation
from fs_fedmllm.rounds.schedule import slices_due
from fs_fedmllm.runs.best_round import best_of, is_better
from fs_fedmllm.runs.checkpoint import RunState
from fs_fedmllm.runs.listener import Listener
from fs_fedmllm.runs.results import closing_figures
from fs_fedmllm.runs.run_folder import RunFolder
from fs_fedmllm.runs.test_sets import TestSetScores, mean_figures
from fs_fedmllm.scenarios.fitting import best_metric


class RunEvaluations:
    """Evaluates the adapters of a run on its own rows and on its further test sets.

    Args:
        federation: the run's pieces.
        folder: where files go.
        state: of the run; figures are added to it, and its best adapter is kept up to date.
        listener: told of what was found.

    Attributes:
        last: figures of the last evaluation in this process.
    """

    def __init__(self, federation: Federation, folder: RunFolder, state: RunState, listener: Listener):
        self._federation, self._folder, self._state, self._listener = federation, folder, state, listener
        self._test_sets = TestSetScores(federation, folder, state)
        self._predictions: list[Prediction] = []
        self.last: dict[str, float] = {}

    def evaluate(self, states: Mapping[int, Mapping[str, torch.Tensor]] | None = None) -> dict[str, float]:
        """Evaluate the global adapter and keep it if it is the best so far.

        Args:
            states: each client's own adapter in its place (the baseline Local): the figures are the uniform mean of
                their metrics.
        """
        done = self._state.round
        figures = self._global() if states is None else self._each(states)
        self._note(done, figures)
        for name, found in self._test_sets.evaluate(states).items():
            self._state.record(self._folder, "test_set", {"set": name, **found})
            self._listener.test_set_evaluated(done, name, found)
        return figures

    def write_zero_shot(self) -> None:
        """Keep the answers before round 0."""
        self._test_sets.write_zero_shot(self._predictions)

    def close(self, results: dict[str, Any]) -> None:
        """Write what the last evaluation predicted, and add what the predictions say to the results."""
        if self._predictions:
            write_predictions(self._folder.path / PREDICTIONS, self._predictions)
        self._test_sets.write()
        data = self._federation.data
        results |= closing_figures(
            self._federation.config,
            data.template,
            self._predictions,
            clients=data.clients,
            train=data.dataset.train,
            test=data.dataset.test,
        )
        for name, figures in self._test_sets.closing().items():
            results["test_sets"][name] |= figures

    def _global(self) -> dict[str, float]:
        slices, self._predictions = slices_due(self._federation.config, self._state.round), []
        return self._federation.evaluate(self._state.params, slices=slices, keep=self._predictions)

    def _each(self, states: Mapping[int, Mapping[str, torch.Tensor]]) -> dict[str, float]:
        done = self._state.round
        per_client, self._predictions = [], []
        for client, state in sorted(states.items()):
            own: list[Prediction] = []
            figures = self._federation.evaluate(state, slices=slices_due(self._federation.config, done), keep=own)
            self._predictions += of_client(own, client)
            self._folder.write_json(f"clients/client_{client}.json", {"rounds": done, **figures})
            write_adapter(self._folder.path / "clients" / f"client_{client}", self._federation.mllm, dict(state))
            per_client.append(figures)
        return mean_figures(per_client)

    def _note(self, done: int, figures: dict[str, float]) -> None:
        evaluations = self._state.figures["evaluations"]
        self._state.record(self._folder, "evaluation", figures)
        self.last = figures
        metric = best_metric(self._federation.config, self._federation.data.dataset)
        entry, best = {"round": done, **figures}, best_of(evaluations, metric)
        evaluations.append(entry)
        if is_better(entry, best, metric):
            self._state.best = dict(self._state.params)
        self._listener.evaluated(done, figures)
