"""The server and client of our jobs inside FederatedScope."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from federatedscope.core.workers import Client, Server

from fs_fedmllm.hosts.federatedscope import distributed, runtime
from fs_fedmllm.hosts.federatedscope.distributed import no_port
from fs_fedmllm.rounds.wire import wire_bytes
from fs_fedmllm.runs.console import closing_table
from fs_fedmllm.runs.session import Session


class RoundSampler:
    """Draws the clients of a round from the run's own generator, as every engine does."""

    def __init__(self, server: FedMLLMServer):
        self._server = server

    def sample(self, size: int) -> list[int]:
        """The round's clients, ascending."""
        return self._server.session.begin_round().clients

    def change_state(self, indices: Iterable[int] | int, state: str) -> None:
        """FederatedScope tracks idle clients here; a synchronous round needs no such state."""


class AdapterAggregator:
    """What FederatedScope's server asks of ``self.aggregator`` beside averaging: files.

    They are safetensors; FederatedScope's own are pickles.
    """

    def __init__(self, server: FedMLLMServer):
        self._server = server

    def save_model(self, path: str, cur_round: int = -1) -> None:
        """Write the global adapter for ``federate.save_to``."""
        # The session writes it with the run folder's adapters.

    def load_model(self, path: str) -> int:
        """Read ``federate.restore_from``; the round is the checkpoint folder's business."""
        raise NotImplementedError("restored before the aggregator is built")

    def reset(self) -> None:
        """Nothing is kept between rounds."""


def _count_once(manager: Any, session: Session) -> None:
    """Give messages their size on the wire; FederatedScope would walk every object to guess it."""
    send = manager.send

    def sized(message: Any) -> None:
        content = message.content
        tensors = content[-1] if isinstance(content, tuple) and content else content
        each = 0
        if isinstance(tensors, dict) and tensors and all(isinstance(t, torch.Tensor) for t in tensors.values()):
            # The server's messages hold the adapter in float32, whatever it is sent in.
            each = wire_bytes(session.message if message.sender == 0 else tensors)
        receivers = len(message.receiver) if isinstance(message.receiver, list) else 1
        message.count_bytes = lambda: (each, each * receivers)
        send(message)

    manager.send = sized


class FedMLLMServer(Server):
    """Aggregates in float32 and in sorted client order, refuses bad updates, evaluates and writes the run folder."""

    def __init__(self, *args: Any, **kwargs: Any):
        config = kwargs.get("config")
        if config is not None and config.federate.restore_from:
            # The session reads it, as safetensors; FederatedScope would unpickle it.
            config = config.clone()
            config.defrost()
            config.federate.restore_from = ""
            config.freeze(inform=False, save=False)
            kwargs["config"] = config
        with no_port():
            super().__init__(*args, **kwargs)
        if config is None:
            return
        run = runtime.current()
        self.session = run.open_session(config.outdir)
        self.sampler = RoundSampler(self)
        self.aggregator = AdapterAggregator(self)
        self.aggregators = [self.aggregator]
        self.model.load_state_dict(self._adapter_sent())
        self._local: dict[int, dict[str, torch.Tensor]] = {}
        _count_once(self.comm_manager, self.session)
        self.state = self.session.state.round  # where the run folder's checkpoint stands

    def _adapter_sent(self) -> dict[str, torch.Tensor]:
        """The adapter as the clients receive it; what else the algorithm sends, the trainer takes from the session."""
        sent = self.session.message
        return {name: sent[name] for name in self.session.state.params}

    def run(self) -> None:
        """FederatedScope's distributed mode: our round loop over our transport."""
        distributed.run_server(self.session)

    def trigger_for_start(self) -> None:
        """Evaluate before round 0, then start."""
        if self.check_client_join_in():
            self.session.zero_shot()
        super().trigger_for_start()

    def _perform_federated_aggregation(self) -> int:
        """Step along the mean of the round's updates, which the session has taken as each came."""
        received = self.msg_buffer["train"][self.state]
        if not runtime.current().config.method.has_global:
            # A client whose training failed keeps what it had.
            self._local |= {client: dict(state) for client, (_, state) in sorted(received.items()) if state}
            self.session.state.round += 1
            return len(received)
        self.session.end_round(len(received))
        self.model.load_state_dict(self._adapter_sent())
        return len(received)

    def _start_new_training_round(self, aggregated_num: int = 0) -> None:
        self.session.checkpoint()
        super()._start_new_training_round(aggregated_num)

    def eval(self) -> None:
        """Evaluate on the server and tell FederatedScope's monitor."""
        self.session.evaluate(self._local or None)
        super().eval()

    def terminate(self, msg_type: str = "finish") -> None:
        """Close the books, then tell the clients."""
        run = runtime.current()
        results = self.session.close()
        run.leave()
        if run.progress is not None:
            run.progress.close()
        super().terminate(msg_type)
        print(closing_table(results, str(self.session.folder.path)), flush=True)


class FedMLLMClient(Client):
    """FederatedScope's client; only its messages know their size, and in distributed mode they are ours."""

    def __init__(self, *args: Any, **kwargs: Any):
        with no_port():
            super().__init__(*args, **kwargs)
        config = kwargs.get("config")
        if config is not None and config.federate.mode == "standalone":
            _count_once(self.comm_manager, runtime.current().session)

    def join_in(self) -> None:
        """In distributed mode, :meth:`run` joins."""
        if self.mode == "standalone":
            super().join_in()

    def run(self) -> None:
        """FederatedScope's distributed mode: our client over our transport."""
        distributed.run_client(runtime.current().site_folder(self._cfg.outdir))
