"""The server's round loop. Clients call; this decides what they get and when a round ends.

One thread runs :meth:`Coordinator.run`; the transport's threads call :meth:`Coordinator.handle`, which may wait (long
polling). Updates enter the mean in ascending client order, whatever the order they come in, so the adapter has the
bytes of a run on one machine. Who took part in a round is recorded: with the same participants, any engine gives the
same adapter (``fedmllm.replay``).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from fs_fedmllm.config.network import NetworkConfig
from fs_fedmllm.config.privacy import threshold_of
from fs_fedmllm.distributed import protocol as p
from fs_fedmllm.distributed.agreement import differences
from fs_fedmllm.distributed.errors import RefusedError
from fs_fedmllm.distributed.frames import NO_TENSORS, Contract
from fs_fedmllm.distributed.journal import Journal, StatusFile
from fs_fedmllm.distributed.messages import Message, shown
from fs_fedmllm.distributed.phases import Phase, Rounds, plain_round
from fs_fedmllm.distributed.roster import Roster
from fs_fedmllm.distributed.throttle import Throttle
from fs_fedmllm.runs.session import Session

#: How often the round loop looks up while it waits, in seconds: for signals, deadlines, and the status file.
_LOOK_UP = 0.5
#: How long a finished server stays for clients that have not heard of it, in seconds.
LINGER = 60.0


#: An answer that counts as given but holds nothing to use.
_UNUSABLE = object()


class Stopped(Exception):
    """The server was asked to stop; the run resumes with the same command."""


class Waiting(Protocol):
    """What a handler may know of the call that it answers; the transport's ``Exchange`` is one."""

    @property
    def active(self) -> bool:
        """Whether somebody still waits for the answer."""

    def on_gone(self, call: Callable[[], None]) -> None:
        """Call this once when nobody does any more."""


@dataclass
class _Open:
    """A phase that waits for answers."""

    phase: Phase
    round: int
    cohort: list[int]
    answers: dict[int, Any] = field(default_factory=dict)
    answered: set[int] = field(default_factory=set)
    closed: bool = False


class Coordinator:
    """The server of a run.

    Args:
        session: the run's book-keeping; it resumes from its checkpoint by itself.
        settings: ``fedmllm.network``.
        agreed: what every client must have alike, see :mod:`fs_fedmllm.distributed.agreement`.
        manifest: sha256 of the split that the clients' folders come from; empty where nobody dealt rows.
        base: fingerprint of the base's weights; empty takes that of the first client that joins.
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
        traffic: Callable[[], tuple[int, int]] = lambda: (0, 0),
        rounds: Rounds = plain_round,
        clock: Callable[[], float] = time.monotonic,
        linger: float = LINGER,
    ):
        self.session = session
        self.settings = settings
        self.roster = Roster(range(1, session.config.federate.client_num + 1))
        self.journal = Journal(session.folder.path, "server")
        self._noted = Throttle()
        self._status_file = StatusFile(session.folder.path)
        self._agreed = agreed
        self._manifest = manifest
        self._base, self._base_of = base, "the server"
        self._traffic = traffic
        self._counted = sum(traffic())
        self._spent = session.dp.spent() if session.dp else None
        self._rounds = rounds
        self._clock = clock
        self._linger = linger
        self._news = threading.Condition()
        self._open: _Open | None = None
        self._doing = "starting"
        self._last_error = ""
        self._stopping = threading.Event()
        self._ended = threading.Event()
        self._final: Message | None = None

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
            self._stopping.set()
            self._wake()  # whoever waits for an answer is told that there will be none

    def _run(self) -> dict[str, Any]:
        session = self.session
        total = session.config.federate.total_round_num
        clients = len(self.roster.expected)
        self.journal.write("started", round=session.state.round, rounds=total, clients=clients, base=self._base[:12])
        try:
            self._say("evaluating")
            session.zero_shot()
            if session.state.round < total:
                self._say("waiting for clients")
                self._await_all()
            while session.state.round < total:
                self._round()
            results = session.close()
        except Stopped:
            self._say("stopped")
            self.journal.write("stopped", round=session.state.round)
            raise
        except Exception as error:
            self._last_error = f"{type(error).__name__}: {error}"
            self._say("failed")
            self.journal.write("error", says=self._last_error)
            raise
        self._finish(results)
        return results

    def _round(self) -> None:
        """One round, with its evaluation and checkpoint."""
        session = self.session
        drawn = session.begin_round()
        cohort = self._await_quorum(drawn)
        rows = {client: self._rows(client) for client in cohort}
        needed = self.quorum(len(drawn), len(cohort))
        phases = self._rounds(session, rows)
        answered: list[int] = cohort
        try:
            phase = next(phases)
            while True:
                answered = self._run_phase(phase, answered, needed)
                phase = phases.send(answered)
        except StopIteration:
            pass
        received_and_sent = sum(self._traffic())
        session.end_round(len(cohort), sent=received_and_sent - self._counted)
        self._counted = received_and_sent
        if session.dp:
            self._spent = session.dp.spent()
        done = session.state.round
        self.journal.write("round", round=done - 1, participants=session.participants[-1])
        if session.evaluation_due():
            self._say("evaluating")
            figures = session.evaluate(done)
            self.journal.write("evaluation", round=done, figures=p.finite(figures))
        session.checkpoint()
        self._look_up()

    def _rows(self, client: int) -> int:
        with self._news:
            member = self.roster.get(client)
            assert member is not None
            return member.rows

    def quorum(self, drawn: int, began: int = 0) -> int:
        """Answers that a round needs; with fewer than its threshold, a masked sum stays shut.

        Args:
            drawn: the round's clients.
            began: how many of them were there to begin it, of which the threshold is a share; 0 before it begins.
        """
        secure = self.session.config.fedmllm.privacy.secure_aggregation
        default = threshold_of(secure.threshold, began or drawn) if secure.enabled else (drawn + 1) // 2
        return min(self.settings.min_clients or default, drawn)

    def _await_all(self) -> None:
        """Wait for every client; after ``join_timeout`` a quorum of the round is enough."""
        deadline = self._clock() + self.settings.join_timeout
        expected = self.roster.expected
        with self._news:
            while len(self.roster.present(expected)) < len(expected) and self._clock() < deadline:
                self._wait(deadline)
            self._tell_missing(expected)

    def _await_quorum(self, drawn: list[int]) -> list[int]:
        """Those of the drawn clients that the round waits for.

        Raises:
            NetworkError: there were too few for too long.
        """
        needed = self.quorum(len(drawn))
        limit = self._clock() + self.settings.give_up
        told = False
        with self._news:
            while len(present := self.roster.present(drawn)) < needed:
                if not told:
                    self._doing = "waiting for clients"
                    self._tell_missing(drawn)
                    told = True
                self._give_up_at(limit, needed, drawn)
                self._wait(limit)
            for client, why in self.roster.missing(drawn).items():
                self.journal.write("missing", round=self.session.state.round, client=client, why=why)
            return present

    def _tell_missing(self, clients: list[int]) -> None:
        for client, why in self.roster.missing(clients).items():
            self.journal.write("missing", client=client, why=why)

    def _give_up_at(self, limit: float, needed: int, drawn: list[int]) -> None:
        if self._clock() < limit:
            return
        why = "; ".join(f"client {client} {reason}" for client, reason in self.roster.missing(drawn).items())
        raise p.NetworkError(
            f"Round {self.session.state.round} needs {needed} of {len(drawn)} clients, and for "
            f"{self.settings.give_up:g} seconds there were fewer: {why}. Bring them back and start the same command "
            "again, or lower fedmllm.network.min_clients."
        )

    def _run_phase(self, phase: Phase, cohort: list[int], needed: int) -> list[int]:
        """Hand out a phase's task and take the answers in ascending client order; who answered in time."""
        round_index = self.session.state.round
        deadline = self._clock() + self.settings.turn_timeout
        limit = deadline + self.settings.give_up
        opened = _Open(phase, round_index, list(cohort))
        with self._news:
            self._open = opened
            self._news.notify_all()
        self._say(phase.name)
        taken = []
        told = False
        try:
            for client in cohort:
                with self._news:
                    while client not in opened.answers and not opened.closed:
                        if self._clock() >= deadline:
                            if len(opened.answered) >= needed:
                                opened.closed = True
                                break
                            for late in cohort:
                                if late not in opened.answered:
                                    self.roster.drop(late, f"no answer in round {round_index} by its deadline")
                            if not told:
                                self._tell_missing(cohort)
                                told = True
                            self._give_up_at(limit, needed, cohort)
                            self._wait(limit)
                        else:
                            self._wait(deadline)
                    answer = opened.answers.pop(client, None)
                    if answer is None or answer is _UNUSABLE:
                        self._lose(client, round_index)
                        continue
                phase.take(client, answer)
                taken.append(client)
        finally:
            with self._news:
                opened.closed = True
                self._open = None
        return taken

    def _lose(self, client: int, round_index: int) -> None:
        member = self.roster.get(client)
        left = member.absent if member is not None and member.absent else "no answer by the deadline"
        self.roster.drop(client, f"missed round {round_index}: {left}")
        self.journal.write("lost", round=round_index, client=client, why=left)

    def _wait(self, until: float) -> None:
        """Wait for news, at most until then; the lock is held."""
        self._look_up()
        self._news.wait(max(0.0, min(_LOOK_UP, until - self._clock())))

    def _look_up(self) -> None:
        if self._stopping.is_set():
            raise Stopped

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
        with self._news:
            self._final = Message(p.FINISH, header, dict(self.session.params))
            self._news.notify_all()
            while self.roster.present(self.roster.expected) and self._clock() < until:  # until they have said good-bye
                if self._stopping.is_set():
                    break
                self._news.wait(min(_LOOK_UP, max(0.0, until - self._clock())))
        self._say("finished")

    def stop(self) -> None:
        """Ask the round loop to end at its next step; may be called from a signal handler."""
        self._stopping.set()

    def _say(self, doing: str) -> None:
        self._doing = doing
        self._status_file.write(self.status(), now=True)

    def status(self) -> dict[str, Any]:
        """What the status file and the ``status`` request say."""
        received, sent = self._traffic()
        expected = self.roster.expected
        with self._news:
            opened = self._open
            return {
                "site": "server",
                "doing": self._doing,
                "round": self.session.state.round,
                "rounds": self.session.config.federate.total_round_num,
                "waiting_for": [c for c in opened.cohort if c not in opened.answered] if opened else [],
                "clients": self.roster.table(),
                "missing": {str(client): why for client, why in self.roster.missing(expected).items()},
                "bytes_received": received,
                "bytes_sent": sent,
                "refused": len(self.session.state.figures["refused"]),
                "last_error": self._last_error,
                **({"privacy": self._spent} if self._spent else {}),
            }

    # Requests ---------------------------------------------------------------------------------------------------

    def admit(self, client: int) -> None:
        """Refuse whoever is not in the roster, with whatever request; the transport asks before it reads one.

        Nothing is written for an outsider here: its certificate is the federation's, but the run is not its business.

        Raises:
            RefusedError: there is no such client in this run.
        """
        if client not in self.roster:
            raise RefusedError(
                f"Client {client} is not in this run's roster. Start it with the certificate and the id that it has "
                "in this run, or raise federate.client_num on every site."
            )

    def contract(self, kind: str, header: Mapping[str, Any]) -> Contract:
        """What the tensors of a request must be; the transport asks before it reads them."""
        if kind != p.ANSWER:
            return NO_TENSORS
        with self._news:
            opened = self._open
            if opened is None or header.get("phase") != opened.phase.name or header.get("round") != opened.round:
                return Contract(max_bytes=2 * self.session.adapter_size)  # read, and refused as late
            return opened.phase.contract

    def handle(self, client: int, message: Message, waiting: Waiting | None = None) -> Message:
        """Answer a client. Called on the transport's threads; may wait for news.

        Args:
            client: the id that its certificate is bound to (without certificates: that it claims).
            message: the request.
            waiting: tells when nobody waits for the answer any more.

        Raises:
            RefusedError: the client is not in the roster.
        """
        requests = {
            p.JOIN: self._join,
            p.ANSWER: self._answer,
            p.LEAVE: self._leave,
        }
        self.admit(client)
        if message.kind == p.STATUS:
            return Message(p.STATUS, self.status())
        try:
            if message.kind != p.NEXT and message.kind not in requests:
                raise p.ProtocolError(f"There is no request {message.kind!r}.")
            said = p.whole(message.header, "client", low=1)
            if said != client:
                raise p.ProtocolError(f"Client {said} called with the certificate of client {client}.")
            if message.kind == p.NEXT:
                return self._next(said, message, waiting)
            return requests[message.kind](said, message)
        except p.ProtocolError as error:
            return self._refuse("malformed", str(error), client)

    def _refuse(self, reason: str, says: str, client: int) -> Message:
        self._last_error = says
        self._note("refused", client, reason=reason, says=says)
        return p.refused(reason, says)

    def _note(self, event: str, client: int, **figures: Any) -> None:
        """Record what a client can cause as often as it likes; one that calls on and on does not fill the disk."""
        left_out = self._noted.room(client)
        if left_out is not None:
            self.journal.write(event, client=client, **figures, **({"left_out": left_out} if left_out else {}))

    def _join(self, client: int, message: Message) -> Message:
        header = message.header
        theirs = header.get("agreed")
        found = differences(self._agreed, theirs if isinstance(theirs, dict) else {})
        if found:
            more = f" and {len(found) - 3} more" if len(found) > 3 else ""
            return self._refuse(
                "config", f"Client {client} has another configuration: {'; '.join(found[:3])}{more}. Use the server's "
                "file on every site.", client,
            )  # fmt: skip
        manifest = p.text(header, "manifest", "")
        if manifest and self._manifest and manifest != self._manifest:
            return self._refuse(
                "data", f"Client {client}'s folder comes from another split ({manifest[:12]}) than the server's "
                f"({self._manifest[:12]}). Write all folders with one data split.", client,
            )  # fmt: skip
        rows = p.whole(header, "rows", low=1)
        if other := self._other_base(client, p.text(header, "base", "")):
            return self._refuse("base", other, client)
        missing_rate = p.number(header, "missing_rate", 0.0, 1.0)
        with self._news:
            before = self.roster.get(client)
            self.roster.join(client, rows, missing_rate)
            self._news.notify_all()
        self._note("joined" if before is None else "rejoined", client, rows=rows, missing_rate=missing_rate)
        if before is not None and before.rows != rows:
            self._note("rows changed", client, before=before.rows, rows=rows)
        config = self.session.config.federate
        return Message(p.WELCOME, {"round": self.session.state.round, "rounds": config.total_round_num})

    def _other_base(self, client: int, theirs: str) -> str:
        """What is wrong with a client's base weights; empty if nothing is."""
        with self._news:
            if theirs and not self._base:
                self._base, self._base_of = theirs, f"client {client}"
            ours, whose = self._base, self._base_of
        if not theirs:
            self._note("base not compared", client)
        if not theirs or theirs == ours:
            return ""
        return (
            f"The base weights of client {client} (fingerprint {shown(theirs[:12])}) are not those of {whose} "
            f"({ours[:12]}), so their adapters cannot be averaged. Compare model.fedmllm.path, model.fedmllm.revision "
            "and the sha256 of the checkpoint's weight files on both; each site's events.jsonl has its fingerprint."
        )

    def _wake(self) -> None:
        with self._news:
            self._news.notify_all()

    def _next(self, client: int, message: Message, waiting: Waiting | None) -> Message:
        until = self._clock() + min(p.number(message.header, "wait", low=0.0), p.POLL)
        held = message.header.get("held")
        if waiting is not None:
            waiting.on_gone(self._wake)
        with self._news:
            if self.roster.heard(client) is None:
                return Message(p.REJOIN)
            self._news.notify_all()
            while True:
                if self._final is not None:
                    return self._final
                if self._stopping.is_set():
                    return Message(p.WAIT, {"stopping": True})
                opened = self._open
                if opened and client in opened.cohort and client not in opened.answered and not opened.closed:
                    break
                left = until - self._clock()
                if left <= 0 or (waiting is not None and not waiting.active):
                    return Message(p.WAIT, {"stopping": False})
                self._news.wait(left)
            taken = self.session.last_accepted(client)
        place = {"phase": opened.phase.name, "round": opened.round, "start": opened.phase.start}
        if held == place:  # it was here before it, or we, came back: no need to send the adapter again
            return Message(p.TASK, {**place, "held": True, "taken": taken})
        task = opened.phase.task(client)
        return Message(p.TASK, {**task.header, **place, "held": False, "taken": taken}, task.tensors)

    def _answer(self, client: int, message: Message) -> Message:
        header = message.header
        phase, round_index = p.text(header, "phase"), p.whole(header, "round")
        start = p.text(header, "start")
        with self._news:
            if self.roster.heard(client) is None:
                return Message(p.REJOIN)
            opened = self._open
        here = f"Client {client}'s answer for round {round_index}, phase {phase},"
        if opened is None or (opened.round, opened.phase.name) != (round_index, phase) or opened.closed:
            return self._refuse("late", f"{here} came when that was over.", client)
        if client not in opened.cohort:
            return self._refuse("not_drawn", f"{here} was not asked for.", client)
        if client in opened.answered:
            return self._refuse("duplicate", f"{here} is here already.", client)
        if start != opened.phase.start:
            return self._refuse("stale", f"{here} was computed from another adapter than the server's.", client)
        unusable = ""
        try:
            answer = opened.phase.read(client, message)
        except p.ProtocolError as error:  # counted as an answer, or it would be asked for again and again
            answer, unusable = _UNUSABLE, str(error)
        with self._news:
            if opened.closed:
                return self._refuse("late", f"{here} came when that was over.", client)
            if client in opened.answered:
                return self._refuse("duplicate", f"{here} is here already.", client)
            opened.answers[client] = answer
            opened.answered.add(client)
            member = self.roster.heard(client)
            assert member is not None
            member.delivered = round_index
            self._news.notify_all()
        if unusable:
            return self._refuse("malformed", f"{here} cannot be used: {unusable}", client)
        self.journal.write("answer", client=client, round=round_index, phase=phase)
        return Message(p.ACCEPTED)

    def _leave(self, client: int, message: Message) -> Message:
        why = p.text(message.header, "why", "")
        with self._news:
            if self.roster.heard(client) is not None:
                self.roster.drop(client, f"left: {why}" if why else "left")
            self._news.notify_all()
        self._note("left", client, why=why)
        return Message(p.ACCEPTED)
