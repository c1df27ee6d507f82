"""Our server optimizers for FederatedScope's own jobs: ``federate.method: fedyogi`` with any of its models."""

from __future__ import annotations

import logging
from typing import Any

import torch
from federatedscope.core.workers import Server

from fs_fedmllm.aggregators import RunningMean, check_update
from fs_fedmllm.algorithms import build_server_optimizer
from fs_fedmllm.config import FedMLLMConfig
from fs_fedmllm.errors import UpdateError

logger = logging.getLogger(__name__)


class OptimizerServer(Server):
    """FederatedScope's server with FedAvgM, FedAdagrad, FedAdam or FedYogi in place of the plain average."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        config = kwargs.get("config")
        if config is None:
            return
        method, options = config.federate.method.lower(), config.fedmllm.server
        default = FedMLLMConfig().server.lr
        rate = options.lr if options.lr != default else (1.0 if method == "fedavgm" else 1.0e-3)
        self._optimizer = build_server_optimizer(
            method, lr=rate, beta1=options.beta1, beta2=options.beta2, tau=options.tau, switches={}
        )
        self._optimizer_state: dict[str, torch.Tensor] | None = None

    def _perform_federated_aggregation(self) -> int:
        received = self.msg_buffer["train"][self.state]
        current = self.model.state_dict()
        params = {n: t.detach().cpu().float().clone() for n, t in current.items() if t.is_floating_point()}
        if self._optimizer_state is None:
            self._optimizer_state = self._optimizer.init(params)
        mean = RunningMean(params)
        for client in sorted(received):
            rows, state = received[client]
            update = {n: torch.as_tensor(t) for n, t in state.items() if n in params}
            try:
                check_update(client, params, update)
                mean.add(client, float(rows) if self._optimizer.weighting == "samples" else 1.0, update)
            except UpdateError as error:
                logger.warning("Round %d: update refused: %s", self.state, error)
        deltas = mean.mean()
        if not deltas:
            raise UpdateError(f"No client sent a tensor in round {self.state}.")
        new, self._optimizer_state = self._optimizer.step(params, self._optimizer_state, deltas)
        merged = {n: new[n].to(current[n].dtype) if n in deltas else t for n, t in current.items()}
        self.model.load_state_dict(merged, strict=False)
        return len(received)
