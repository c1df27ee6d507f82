"""The server's round loop: what clients get, and when a round ends.

One thread runs :meth:`RoundServer.run`; the transport's threads are at its :class:`~fs_fedmllm.distributed.desk.Desk`.
Updates enter the mean in ascending client order, whatever the order they come in, so the adapter has the
bytes of a run on one machine. Who took part in a round is recorded: with the same participants, any engine gives the
same adapter (``fedmllm.replay``).
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from fs_fedmllm.config.missing_modalities import told_of_rows
from fs_fedmllm.config.network import NetworkConfig
from fs_fedmllm.config.privacy import SecureAggregationConfig, threshold_of
from fs_fedmllm.distributed import protocol as p
from fs_fedmllm.distributed.attendance import LOOK_UP, Attendance, Stopped
from fs_fedmllm.distributed.desk import Desk
from fs_fedmllm.distributed.joining import Joining
from fs_fedmllm.distributed.journal import Journal, StatusFile
from fs_fedmllm.distributed.messages import Message
from fs_fedmllm.distributed.open_phase import UNUSABLE, OpenPhase
from fs_fedmllm.distributed.phases import Phase, Rounds, plain_round
from fs_fedmllm.distributed.roster import Roster
from fs_fedmllm.distributed.secure_store import OPENED, OVER, RoundStore, held_round
from fs_fedmllm.distributed.shelf import Shelf
from fs_fedmllm.errors import TooFewError
from fs_fedmllm.rounds.schedule import evaluation_due
from fs_fedmllm.runs.session import Session

#: How long a finished server stays for clients that have not heard of it, in seconds.
LINGER = 60.0
#: How often a process takes a round whose sum could not be opened.
ATTEMPTS = 3


class RoundServer:
    """The server of a run.

    Args:
        session: the run's book-keeping; it resumes from its checkpoint by itself.
        settings: ``fedmllm.network``.
        agreed: what every client must have alike, see :mod:`fs_fedmllm.distributed.agreement`.
        manifest: sha256 of the split that the clients' folders come from; empty where nobody dealt rows.
        base: fingerprint of the base's weights; empty takes that of the first client that joins.
        processor: sha256 of the files of chat template, tokenizer and processors, by name; empty takes those of the
            first client that joins.
        traffic: bytes received and sent so far, counted by the transport.
        rounds: the phases of a round.
        clock: monotonic seconds.
        linger: how long to stay for clients that have not heard of the end, in seconds.
    """

    def __init__(
        self,
        session: Session,
        settings: NetworkConfig,
        *,
        agreed: Mapping[str, Any],
        manifest: str = "",
        base: str = "",
        processor: Mapping[str, str] = MappingProxyType({}),
        traffic: Callable[[], tuple[int, int]] = lambda: (0, 0),
        rounds: Rounds = plain_round,
        clock: Callable[[], float] = time.monotonic,
        linger: float = LINGER,
    ):
        self.session = session
        self.settings = settings
        self.roster = Roster(range(1, session.config.federate.client_num + 1))
        self.journal = Journal(session.folder.path, "server")
        self._status_file = StatusFile(session.folder.path)
        self._total = session.config.federate.total_round_num
        self._base = base
        self._traffic = traffic
        self._counted = sum(traffic())
        self._spent = session.dp.spent() if session.dp else None
        self._rounds = rounds
        self._clock = clock
        self._linger = linger
        self._doing = "starting"
        self._ended = threading.Event()
        self._shelf = Shelf(session.folder.path)
        self.desk = Desk(
            session.state,
            self._total,
            self.roster,
            self.journal,
            joining=Joining(agreed, manifest, base, processor, told_of_rows(session.config)),
            status=self.status,
            clock=clock,
            shelf=self._shelf,
        )
        self.attendance = Attendance(
            self.desk, self.roster, self.journal, settings, session.state, self._say_waiting, clock
        )

    # The round loop ---------------------------------------------------------------------------------------------

    def run(self) -> dict[str, Any]:
        """Run until the last round is done.

        Returns:
            The results, as in results.json.

        Raises:
            Stopped: :meth:`stop` was called; the last checkpoint stands.
            NetworkError: too few clients for longer than ``fedmllm.network.give_up``.
            FedMLLMError: as on every engine.
        """
        threading.Thread(target=self._keep_status, name="fedmllm-status", daemon=True).start()
        try:
            return self._run()
        finally:
            self._ended.set()
            self.desk.stopping.set()
            self.desk.wake()  # whoever waits for an answer is told that there will be none
            self._shelf.close()

    def _run(self) -> dict[str, Any]:
        session = self.session
        figures = {"rounds": self._total, "clients": len(self.roster.expected), "base": self._base[:12]}
        self.journal.write("started", round=session.state.round, **figures)
        try:
            self._say("evaluating")
            session.zero_shot()
            if session.state.round < self._total:
                self._say("waiting for clients")
                self.attendance.everybody()
            while session.state.round < self._total:
                self._round()
            results = session.close()
            self._forget()
        except Stopped:
            self._say("stopped")
            self.journal.write("stopped", round=session.state.round)
            raise
        except Exception as error:
            self.desk.last_error = f"{type(error).__name__}: {error}"
            self._say("failed")
            self.journal.write("error", says=self.desk.last_error)
            raise
        self._finish(results)
        return results

    def _round(self) -> None:
        """One round, with its evaluation and checkpoint."""
        session = self.session
        self._learn_presence()
        session.begin_round()
        for attempt in itertools.count(1):
            try:
                present = self._attempt()
                break
            except TooFewError as error:  # nothing of the round was opened, and it may be taken again
                refused = session.state.figures["refused"]
                why = "; ".join(entry["reason"] for entry in refused if entry["round"] == session.state.round)
                says = f"{error} What its clients said: {why or 'nothing'}."
                self.journal.write("aborted", round=session.state.round, says=says)
                if attempt == ATTEMPTS:
                    raise TooFewError(says) from error
                session.retake()
        received_and_sent = sum(self._traffic())
        session.end_round(len(present), sent=received_and_sent - self._counted)
        self._counted = received_and_sent
        if session.dp:
            self._spent = session.dp.spent()
        done = session.state.round
        self.journal.write("round", round=done - 1, participants=session.state.figures["participants"][-1])
        if evaluation_due(session.config, done):
            self._say("evaluating")
            figures = session.evaluate()
            self.journal.write("evaluation", round=done, figures=p.finite(figures))
        session.checkpoint()
        if done < self._total:  # the last round has no checkpoint, only results
            self._forget()
        self.attendance.look_up()

    def _attempt(self) -> list[int]:
        """The exchanges of a round; the clients that were there to begin it.

        Raises:
            TooFewError: too few of them were left for its sum to be opened.
        """
        session = self.session
        current = session.round
        assert current is not None
        drawn, needed = current.clients, self.quorum(len(current.clients))
        held = held_round(session) if self._secure.enabled else None
        if held is not None:  # masked updates may be out: with these clients, or not at all
            current.clients = drawn = list(held.cohort)
            needed = {OVER: len(drawn), OPENED: 0}.get(held.stage, needed)
            self.journal.write("goes on", round=current.index, stage=held.stage, clients=drawn)
        present = self.attendance.quorum(drawn, needed, again=held is not None)
        phases = self._rounds(session, {client: self._rows(client) for client in present})
        answered: list[int] = present
        try:
            phase = next(phases)
            while True:
                answered = self._run_phase(phase, [c for c in answered if phase.asks(c)], needed)
                phase = phases.send(answered)
        except StopIteration:
            return present

    def _forget(self) -> None:
        """What the disk holds of a round is no longer needed: a checkpoint, or the results, have what came of it."""
        if self._secure.enabled:
            RoundStore(self.session.folder.path).clear()

    @property
    def _secure(self) -> SecureAggregationConfig:
        return self.session.federation.server.privacy.secure_aggregation

    def _learn_presence(self) -> None:
        """Take over what clients told of their rows, where the run asks.

        Raises:
            NetworkError: a client did not come for too long.
        """
        if told_of_rows(self.session.config):
            kept = self.session.state.figures.setdefault("presence", {})
            self.session.federation.presence.update(self.attendance.told_rows(kept))

    def _rows(self, client: int) -> int:
        with self.desk.news:
            member = self.roster.get(client)
            assert member is not None
            return member.rows

    def quorum(self, drawn: int) -> int:
        """Answers that a round needs; with fewer than its threshold, a masked sum stays shut."""
        default = (drawn + 1) // 2
        if self._secure.enabled:
            default = threshold_of(self._secure.threshold, self.session.config.sampled_clients)
        return min(self.settings.min_clients or default, drawn)

    def _run_phase(self, phase: Phase, clients: list[int], needed: int) -> list[int]:
        """Hand out a phase's task and take the answers in ascending client order; who answered in time."""
        round_index = self.session.state.round
        deadline = self._clock() + self.settings.turn_timeout
        limit = deadline + self.settings.give_up
        opened = OpenPhase(phase, round_index, list(clients))
        with self.desk.news:
            self.desk.opened = opened
            self.desk.news.notify_all()
        self._say(phase.name)
        needed = min(needed, len(clients))  # one that said what it cannot do is not asked again
        taken = []
        told = False
        try:
            for client in clients:
                with self.desk.news:
                    while client not in opened.answers and not opened.closed:
                        if self._clock() >= deadline:
                            if len(opened.answered) >= needed:
                                opened.closed = True
                                break
                            for late in clients:
                                if late not in opened.answered:
                                    self.roster.drop(late, f"no answer in round {round_index} by its deadline")
                            if not told:
                                self.attendance.tell_missing(clients)
                                told = True
                            self.attendance.give_up_at(limit, needed, clients)
                            self.attendance.wait(limit)
                        else:
                            self.attendance.wait(deadline)
                    answer = opened.answers.pop(client, None)
                    if answer is None or answer is UNUSABLE:
                        self.attendance.lose(client)
                        continue
                phase.take(client, self._shelf.take(answer))
                del answer  # an update, which would stay in memory until the next one comes
                taken.append(client)
        finally:
            with self.desk.news:
                opened.closed = True
                self.desk.opened = None
        return taken

    def _keep_status(self) -> None:
        """Write the status file while the run goes on; a thread's life."""
        while not self._ended.wait(1.0):
            self._status_file.write(self.status())

    def _finish(self, results: dict[str, Any]) -> None:
        """Tell every client that is there, for a while."""
        header = {name: results[name] for name in ("rounds", "adapter_sha256")} | {"best": p.finite(results["best"])}
        self.journal.write("finished", round=results["rounds"], adapter_sha256=results["adapter_sha256"])
        self._say("finished")
        until = self._clock() + self._linger
        with self.desk.news:
            self.desk.final = Message(p.FINISH, header, dict(self.session.state.params))
            self.desk.news.notify_all()
            while self.roster.present(self.roster.expected) and self._clock() < until:  # until they have said good-bye
                if self.desk.stopping.is_set():
                    break
                self.desk.news.wait(min(LOOK_UP, max(0.0, until - self._clock())))
        self._say("finished")

    def stop(self) -> None:
        """Ask the round loop to end at its next step; may be called from a signal handler."""
        self.desk.stopping.set()

    def _say(self, doing: str) -> None:
        self._doing = doing
        self._status_file.write(self.status(), now=True)

    def _say_waiting(self) -> None:
        self._doing = "waiting for clients"

    def status(self) -> dict[str, Any]:
        """What the status file and the ``status`` request say."""
        received, sent = self._traffic()
        expected = self.roster.expected
        with self.desk.news:
            opened = self.desk.opened
            return {
                "site": "server",
                "doing": self._doing,
                "round": self.session.state.round,
                "rounds": self._total,
                "waiting_for": [c for c in opened.clients if c not in opened.answered] if opened else [],
                "clients": self.roster.table(),
                "missing": {str(client): why for client, why in self.roster.missing(expected).items()},
                "bytes_received": received,
                "bytes_sent": sent,
                "refused": len(self.session.state.figures["refused"]),
                "last_error": self.desk.last_error,
                **({"privacy": self._spent} if self._spent else {}),
            }
