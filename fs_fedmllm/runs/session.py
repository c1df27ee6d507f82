"""A run, step by step, the same on every engine.

What the adapter of an engine calls, in this order::

    session = Session(federation, folder, listener)     # goes on where the folder's checkpoint stands
    session.zero_shot()
    while session.state.round < rounds:
        current = session.begin_round()                  # current.clients are sent current.message
        for client in current.clients:                   # wherever it trains
            state = session.state.clients.get(client, NOTHING)
            update = federation.clients.attempt(client, current.index, current.message, state)
            session.take(update)                         # a ClientUpdate or a FailedUpdate, in ascending order
        session.end_round()
        if evaluation_due(config, session.state.round):
            session.evaluate()
        session.checkpoint()
    results = session.close()

What a client keeps from one update to its next (``ClientUpdate.client_state``) is in ``session.state.clients`` where
clients run in the server's process; elsewhere it stays with the client.
"""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from fs_fedmllm.algorithms import State
from fs_fedmllm.errors import UpdateError
from fs_fedmllm.evaluation.form import said_of_form
from fs_fedmllm.hub.hook import HubHook
from fs_fedmllm.privacy.central import CentralPrivacy
from fs_fedmllm.rounds.client_update import NOTHING, ClientUpdate, FailedUpdate
from fs_fedmllm.rounds.federation import Federation
from fs_fedmllm.rounds.server import Round
from fs_fedmllm.rounds.stand_in_guard import allowed_by, decided
from fs_fedmllm.rounds.stand_ins import telling
from fs_fedmllm.rounds.wire import wire_bytes
from fs_fedmllm.rounds.workers import Asked
from fs_fedmllm.runs.belongings import belongings
from fs_fedmllm.runs.best import write_adapters
from fs_fedmllm.runs.buffered import BufferedRounds
from fs_fedmllm.runs.checkpoint import remove_checkpoint, save_checkpoint
from fs_fedmllm.runs.clock import RunClock
from fs_fedmllm.runs.evaluations import RunEvaluations
from fs_fedmllm.runs.last_rounds import average_last, kept_rounds
from fs_fedmllm.runs.listener import Listener
from fs_fedmllm.runs.opening import open_run
from fs_fedmllm.runs.results import results_so_far, with_settings
from fs_fedmllm.runs.resumption import identity
from fs_fedmllm.runs.run_folder import RunFolder

logger = logging.getLogger(__name__)


class Session:
    """One run.

    Args:
        federation: the pieces.
        folder: where files go.
        listener: shows progress.
        started: ``time.perf_counter()`` of the command's start, so that loading counts in the closing table.

    Attributes:
        state: what the run carries from round to round.
        round: the round that is under way.
        dp: the run's differential privacy.
        buffered: the run's asynchronous rounds; None where a round waits for its clients.
        evaluations: what was found by evaluating in this process.
    """

    def __init__(
        self, federation: Federation, folder: RunFolder, listener: Listener | None = None, started: float | None = None
    ):
        self.federation = federation
        self.config = config = federation.config
        self.folder = folder
        self._server = federation.server
        self._listener = listener or Listener()
        self._listener.began(federation.data.names)
        self._clock = RunClock(started)
        self._identity = identity(config, federation.data)
        self._belongs = belongings(config, federation.data)
        self._uploaded = 0
        self.round: Round | None = None
        # Before the folder is opened: a row that is too long, a metric that cannot be loaded, or a repository that
        # cannot be pushed to, is better known now.
        self._shortened = federation.shortened_rows()
        federation.load_metrics()
        self._hub = HubHook(federation, folder.path) if config.fedmllm.hub.repo else None
        self.state = open_run(federation, folder, self._listener, self._identity, self._belongs)
        self.evaluations = RunEvaluations(federation, folder, self.state, self._listener)
        if seconds := self.state.figures.get("seconds"):
            self._clock.resume(seconds)
        self.buffered = BufferedRounds(federation, self.state) if config.fedmllm.async_.buffer else None
        self.dp: CentralPrivacy | None = None
        if (dp := config.fedmllm.privacy.dp).enabled:
            done, clients = self.state.round, config.federate.client_num
            left, ledger = config.federate.total_round_num - done, folder.path / "privacy.jsonl"
            self.dp = CentralPrivacy(dp, clients, config.sampled_clients, ledger, left=left, done=done)

    @property
    def message(self) -> State:
        """What the server sends to clients as the run stands."""
        return {**self._server.message(self.state.params, self.state.server), **self._told}

    def zero_shot(self) -> None:
        """Evaluate before round 0, unless a resumed run has done so."""
        if self.config.fedmllm.eval.zero_shot and not self.state.figures["evaluations"]:
            self.evaluate()
            self.evaluations.write_zero_shot()

    def begin_round(self) -> Round:
        """Open the next round: its clients, and what they are sent."""
        self._uploaded = 0
        self._clock.begin_round()
        if self.buffered is not None:
            clients = self.buffered.begin(self.state.round)
        else:
            # Not a function of the seed under differential privacy: see privacy.sampling.
            clients = self.dp.draw_clients() if self.dp else self.federation.sample_clients(self.state.round)
        earlier = self.state.figures.get("stand_ins", [])
        if decisions := decided(self.federation, self.state.round, self.state.params, earlier):
            self.state.figures["stand_ins"] = decisions
        self.round = self._open(self.state.round, clients)
        if self.buffered is not None:
            self.buffered.keep(self.round)
        return self.round

    def next_updates(self) -> list[Asked]:
        """What is to be computed and taken next in an asynchronous round; empty when the buffer is full.

        It is asked again when all of it was taken: an update that is refused leaves its place to another.
        """
        assert self.buffered is not None and self.round is not None
        asked = self.buffered.asked(self.round, self.config.fedmllm.async_.buffer - len(self.round.taken))
        for client, reason in self.buffered.newly_dropped():
            self._uploaded += wire_bytes(self._server.upload_like(self.round.received))  # it came, and was dropped
            self._refuse(client, reason)
        return asked

    def _open(self, index: int, clients: Sequence[int]) -> Round:
        return self._server.begin(index, clients, self.state.params, self.state.server, self._told)

    @property
    def _told(self) -> State:
        """What clients are told beside the adapter and the algorithm's message."""
        decisions = self.state.figures.get("stand_ins")
        return telling(allowed_by(decisions)) if decisions else {}

    def retake(self) -> None:
        """Begin the round that is under way again: what its clients gave came to nothing, and refused nobody."""
        current = self.round
        assert current is not None
        self._uploaded = 0
        refused = self.state.figures["refused"]
        refused[:] = [entry for entry in refused if entry["round"] != current.index]
        self.round = self._open(current.index, current.clients)

    def take(self, update: ClientUpdate | FailedUpdate) -> bool:
        """Record what a client gives back, check it and add it to the round; in ascending client order.

        Without a server (the baseline Local) it is recorded.

        Returns:
            Whether the update was accepted. One that is not is named in the results, and the round goes on.
        """
        if isinstance(update, FailedUpdate):
            self._refuse(update.client, f"client {update.client}: {update.reason}")
            return False
        log = update.log
        # The task loss, the regulariser and the gradient norm (Figures 13 and 14).
        figures = {"loss": log.loss, "penalty": log.penalty, "grad_norm": log.grad_norm}
        figures |= {"steps": log.steps, "rows": log.rows}
        if self.buffered is not None:
            figures["staleness"] = self.buffered.staleness(update.client)
        # Under secure aggregation between sites, a client keeps the figures of its own data.
        known = {name: value for name, value in figures.items() if not math.isnan(value)}
        self._clock.trained(log.seconds)
        self.state.figures["turns"] += 1
        self.state.record(self.folder, "turn", {"client": update.client, **known})
        self._listener.trained(self.state.round, update)
        if self.round is None or self.federation.optimizer is None:
            return True
        self._uploaded += wire_bytes(update.state)
        try:
            if self.buffered is None:
                self._server.take(self.round, update)
            else:
                self._server.take_buffered(self.round, update, *self.buffered.origin(update.client))
        except UpdateError as error:
            self._refuse(update.client, str(error))
            return False
        return True

    def end_round(self, clients: int | None = None, sent: int | None = None) -> None:
        """Take the server's step and move on.

        Args:
            clients: how many were sent the adapter, if not all that were drawn.
            sent: bytes that went both ways in this round, where somebody counted them.

        Raises:
            UpdateError: no valid update is left; the last good adapter is saved first.
        """
        current, state = self.round, self.state
        assert current is not None
        release = functools.partial(self.dp.release, state.round) if self.dp else None
        try:
            params, server = self._server.step(current, state.params, state.server, release)
        except UpdateError as error:
            write_adapters(self.folder.path, self.federation, state)
            names = "; ".join(r["reason"] for r in state.figures["refused"] if r["round"] == state.round)
            raise UpdateError(
                f"Round {state.round}: {error} {names} The last good adapter is in {self.folder.path}/adapter."
            ) from error
        told = self.buffered.end(current) if self.buffered is not None else {}
        clients = told.get("sent", len(current.clients)) if clients is None else clients
        moved = clients * wire_bytes(current.message) + self._uploaded if sent is None else sent
        for client, reason in current.aggregator.refused.items():
            current.client_states.pop(client, None)
            self._refuse(client, reason)
        state.params, state.server = params, server
        state.recent = kept_rounds(state.recent, params, self.config.fedmllm.average_last)
        # Only now: a client whose update was refused stays where it was, and so does what it keeps.
        state.clients = state.clients | current.client_states
        state.figures["bytes_sent"] += moved
        state.figures["participants"].append(current.taken)
        seconds, training = self._clock.end_round()
        figures = {
            "clients": clients,
            "seconds": seconds,
            "training_seconds": training,
            "bytes_sent": moved,
            **current.aggregator.figures,
            **{name: value for name, value in told.items() if name != "sent"},
            **({"epsilon": self.dp.epsilon()} if self.dp else {}),
        }
        state.record(self.folder, "round", figures)
        state.round += 1
        self.round = None  # evaluations and checkpoints need one adapter, not that which the round began with too
        self._listener.round_ended(state, figures)

    def evaluate(self, states: Mapping[int, Mapping[str, torch.Tensor]] | None = None) -> dict[str, float]:
        """Evaluate the global adapter and keep it if it is the best so far.

        Args:
            states: each client's own adapter in its place (the baseline Local): the figures are the uniform mean of
                their metrics.
        """
        return self.evaluations.evaluate(states)

    def checkpoint(self) -> None:
        """Save the run's state, if this round is due."""
        every = self.config.fedmllm.checkpoint_every
        if every and self.state.round % every == 0 and self.state.round < self.config.federate.total_round_num:
            self._save()
        if not every:
            self.folder.stands()
        self._publish()

    def close(self) -> dict[str, Any]:
        """Write the adapters and results.json, publish, and return the results."""
        folder = self.folder
        digest = write_adapters(folder.path, self.federation, self.state)
        average, figures = average_last(self.federation, folder, self.state)
        results = self._results(digest) | ({"average_last": figures} if figures else {})
        self.evaluations.close(results)
        if results.get("out_of_form"):
            logger.warning("%s.", said_of_form(results["out_of_form"]))
        folder.write_json("results.json", results)  # first without the hub: while a push hangs, the results are there
        if published := self._publish(results, average):
            results["hub"] = published
            folder.write_json("results.json", results)
        folder.close()
        remove_checkpoint(folder.path / "checkpoint")
        return results

    def _refuse(self, client: int, reason: str) -> None:
        logger.warning("Round %d: update refused: %s", self.state.round, reason)
        self.state.figures["refused"].append({"round": self.state.round, "client": client, "reason": reason})
        self._listener.refused(self.state.round, client, reason)

    def _seconds(self) -> dict[str, float]:
        return self._clock.seconds(self.federation.evaluation_seconds)

    def _publish(
        self, closing: dict[str, Any] | None = None, average: Mapping[str, torch.Tensor] = NOTHING
    ) -> dict[str, Any]:
        """Offer the hub what is due of the run as it stands; what results.json says of it, once it is at its end.

        Args:
            closing: the results, at the end of the run.
            average: the mean of the last rounds' adapters, if the run keeps one.
        """
        if self._hub is None or self.federation.optimizer is None:
            return {}
        state = self.state
        return self._hub.publish(
            state.round, state.params, state.best, self._results, self._save, closing=closing, average=average
        )

    def _save(self) -> None:
        self.state.figures["seconds"] = self._seconds()
        save_checkpoint(self.folder.path / "checkpoint", self.state, self._identity, self._belongs)
        self.folder.stands()

    def _results(self, digest: str | None = None) -> dict[str, Any]:
        results = results_so_far(
            self.config,
            self.federation.data,
            self.state,
            seconds=self._seconds(),
            shortened=self._shortened,
            digest=digest,
            dp=self.dp,
        )
        return with_settings(results, self.federation)
