"""FederatedScope's trainer ``fedmllm``: a thin object that delegates to the run's Hugging Face trainer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from federatedscope.core.trainers.base_trainer import BaseTrainer

from fs_fedmllm.hosts.federatedscope import runtime
from fs_fedmllm.hosts.federatedscope.view import AdapterView
from fs_fedmllm.rounds.client_update import NOTHING, FailedUpdate


class FedMLLMTrainer(BaseTrainer):
    """One per worker; all share the process's model.

    Args:
        model: the worker's view of the adapter; clients may share one.
        data: the worker's rows.
        device: ignored, the run's own device counts.
        config: FederatedScope's config.
        only_for_eval: the server's trainer.
        monitor: FederatedScope's monitor; it knows the worker, and the worker its id and round.
    """

    def __init__(
        self,
        model: AdapterView,
        data: Any,
        device: Any,
        config: Any,
        only_for_eval: bool = False,
        monitor: Any = None,
    ):
        super().__init__(model, data, device)
        self.cfg = config
        self.only_for_eval = only_for_eval
        self.monitor = monitor
        self._own: dict[str, torch.Tensor] | None = None

    @property
    def _alone(self) -> bool:
        """Whether each client keeps its own adapter (the baseline Local)."""
        return not runtime.current().config.method.has_global

    def print_trainer_meta_info(self) -> str:
        """Nothing worth a line per worker."""
        return type(self).__name__

    def update(self, model_parameters: Mapping[str, torch.Tensor], strict: bool = False) -> None:
        """Take the broadcast adapter."""
        if model_parameters:
            self.model.load_state_dict(model_parameters, strict=strict)

    def get_model_para(self) -> dict[str, torch.Tensor]:
        """The worker's adapter."""
        return self.model.state_dict()

    def train(self) -> tuple[int, dict[str, torch.Tensor], dict[str, float]]:
        """Train, and hand the update to the run's session; FederatedScope trains a round's clients in ascending order.

        Returns:
            Rows of the client, its adapter, and figures for FederatedScope's log. No tensors if the training
            failed; the server leaves such a client out and goes on.
        """
        run, client = runtime.current(), int(self.monitor.monitored_object.ID)
        session = run.session
        if self._alone:
            start = self._own if self._own is not None else self.model.state_dict()
        else:  # FederatedScope's message holds the adapter; what else the algorithm sends comes from the session
            start = session.message | self.model.state_dict()
        client_state = session.state.clients.get(client, NOTHING)
        update = run.federation.clients.attempt(client, session.state.round, start, client_state)
        session.take(update)
        if isinstance(update, FailedUpdate):
            return 0, {}, {"train_total": 0}
        if self._alone:
            self._own = update.state
        log = update.log
        figures = {
            "train_total": log.rows,
            "train_avg_loss": log.loss,
            "train_penalty": log.penalty,
            "train_grad_norm": log.grad_norm,
        }
        return update.rows, update.state, figures

    def evaluate(self, target_data_split_name: str = "test") -> dict[str, float]:
        """The figures of the evaluation that our server just made, for one split."""
        figures = runtime.current().session.evaluations.last
        prefix = f"{target_data_split_name}_"
        return {name: value for name, value in figures.items() if name.startswith(prefix)}
