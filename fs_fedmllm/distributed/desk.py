"""What a client's call meets: one place that the transport's threads and the round loop share.

The round loop opens a phase here and waits for news; the transport's threads call :meth:`Desk.handle`, which may wait
too (long polling), and leave the clients' answers.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from fs_fedmllm.distributed import protocol as p
from fs_fedmllm.distributed.contracts import NO_TENSORS, Contract
from fs_fedmllm.distributed.errors import RefusedError
from fs_fedmllm.distributed.joining import Joining
from fs_fedmllm.distributed.journal import Journal
from fs_fedmllm.distributed.messages import Message
from fs_fedmllm.distributed.open_phase import UNUSABLE, OpenPhase
from fs_fedmllm.distributed.roster import Roster
from fs_fedmllm.distributed.shelf import Shelf
from fs_fedmllm.distributed.throttle import Throttle
from fs_fedmllm.rounds.wire import wire_bytes
from fs_fedmllm.runs.checkpoint import RunState


class Waiting(Protocol):
    """What a handler may know of the call that it answers; the transport's ``Exchange`` is one."""

    @property
    def active(self) -> bool:
        """Whether somebody still waits for the answer."""

    def on_gone(self, call: Callable[[], None]) -> None:
        """Call this once when nobody does any more."""


def last_accepted(state: RunState, client: int) -> int:
    """The last round that used an update of this client, or -1."""
    refused = {(entry["round"], entry["client"]) for entry in state.figures["refused"]}
    participants = state.figures["participants"]
    rounds = range(len(participants) - 1, -1, -1)
    used = (index for index in rounds if client in participants[index] and (index, client) not in refused)
    return next(used, -1)


class Desk:
    """Answers clients.

    Args:
        state: the run's, which the round loop moves on.
        rounds: of the run.
        roster: the run's clients.
        journal: events.
        joining: what every client must have alike.
        status: what the ``status`` request is told.
        clock: monotonic seconds.
        shelf: where all updates but the next one wait; None keeps them in memory.

    Attributes:
        news: the lock of everything below and of the roster; whoever changes something notifies.
        opened: the phase that is under way.
        final: the last word, once there is one.
        stopping: set when the server goes away.
        last_error: what went wrong last, for the status.
        not_coming: clients that will not join by themselves.
        turned_away: those of them that cannot take part as they are.
    """

    def __init__(
        self,
        state: RunState,
        rounds: int,
        roster: Roster,
        journal: Journal,
        *,
        joining: Joining,
        status: Callable[[], dict[str, Any]],
        clock: Callable[[], float] = time.monotonic,
        shelf: Shelf | None = None,
    ):
        self._shelf = shelf
        self._state = state
        self._rounds = rounds
        self._roster = roster
        self._journal = journal
        self._joining = joining
        self._status = status
        self._clock = clock
        self._noted = Throttle()
        self.news = threading.Condition()
        self.opened: OpenPhase | None = None
        self.final: Message | None = None
        self.stopping = threading.Event()
        self.last_error = ""
        self.not_coming: set[int] = set()
        self.turned_away: set[int] = set()

    def wake(self) -> None:
        """Let everybody who waits look again."""
        with self.news:
            self.news.notify_all()

    def is_there(self, client: int) -> bool:
        """Whether rounds wait for this client."""
        with self.news:
            return bool(self._roster.present([client]))

    def turn_away(self, client: int, says: str, *, away: bool = False) -> None:
        """Record that a client cannot take part, where its carrier found out and not a message of its own.

        Nobody waits for it to join: whoever carries its messages asks it once, and it does not call by itself.

        Args:
            client: id.
            says: why.
            away: nothing is wrong with it, it is not connected.
        """
        with self.news:
            known = client in self._roster.refused  # as it is where a message of its own was refused a moment ago
        if not known:
            self._refuse("unusable", says, client)
        with self.news:
            self.last_error = self._roster.refused[client] = says
            self.not_coming.add(client)
            if not away:
                self.turned_away.add(client)
            self.news.notify_all()

    def admit(self, client: int) -> None:
        """Refuse whoever is not in the roster, with whatever request; the transport asks before it reads one.

        Nothing is written for an outsider here: its certificate is the federation's, but the run is not its business.

        Raises:
            RefusedError: there is no such client in this run.
        """
        if client not in self._roster:
            raise RefusedError(
                f"Client {client} is not in this run's roster. Start it with the certificate and the id that it has "
                "in this run, or raise federate.client_num on every site."
            )

    def contract(self, kind: str, header: Mapping[str, Any]) -> Contract:
        """What the tensors of a request must be; the transport asks before it reads them."""
        if kind != p.ANSWER:
            return NO_TENSORS
        with self.news:
            opened = self.opened
            if opened is None or header.get("phase") != opened.phase.name or header.get("round") != opened.round:
                return Contract(max_bytes=2 * wire_bytes(self._state.params))  # read, and refused as late
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
            return Message(p.STATUS, self._status())
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
        self.last_error = says
        self._note("refused", client, reason=reason, says=says)
        return p.refused(reason, says)

    def _turn_down(self, reason: str, says: str, client: int) -> Message:
        with self.news:
            self._roster.refused[client] = says
        return self._refuse(reason, says, client)

    def _note(self, event: str, client: int, **figures: Any) -> None:
        """Record what a client can cause as often as it likes; one that calls on and on does not fill the disk."""
        left_out = self._noted.room(client)
        if left_out is not None:
            self._journal.write(event, client=client, **figures, **({"left_out": left_out} if left_out else {}))

    def _join(self, client: int, message: Message) -> Message:
        header = message.header
        reason, says = self._joining.other_run(client, header)
        if says:
            return self._turn_down(reason, says, client)
        rows = p.whole(header, "rows", low=1)
        base = p.text(header, "base", "")
        if not base:
            self._note("base not compared", client)
        if other := self._joining.other_base(client, base):
            return self._turn_down("base", other, client)
        processor = p.texts(header, "processor")
        if not processor:
            self._note("processor not compared", client)
        if other := self._joining.other_processor(client, processor):
            return self._turn_down("processor", other, client)
        missing_rate = p.number(header, "missing_rate", 0.0, 1.0)
        presence, name = self._joining.presence(header, rows), p.text(header, "name", "")
        with self.news:
            before = self._roster.get(client)
            self._roster.join(client, rows, missing_rate, presence, name)
            self.not_coming.discard(client)
            self.turned_away.discard(client)
            self.news.notify_all()
        self._note("joined" if before is None else "rejoined", client, rows=rows, missing_rate=missing_rate)
        if before is not None and before.rows != rows:
            self._note("rows changed", client, before=before.rows, rows=rows)
        return Message(p.WELCOME, {"round": self._state.round, "rounds": self._rounds})

    def _next(self, client: int, message: Message, waiting: Waiting | None) -> Message:
        until = self._clock() + min(p.number(message.header, "wait", low=0.0), p.POLL)
        held = message.header.get("held")
        if waiting is not None:
            waiting.on_gone(self.wake)
        with self.news:
            if self._roster.heard(client) is None:
                return Message(p.REJOIN)
            self.news.notify_all()
            while True:
                if self.final is not None:
                    return self.final
                if self.stopping.is_set():
                    return Message(p.WAIT, {"stopping": True})
                opened = self.opened
                if opened and client in opened.clients and client not in opened.answered and not opened.closed:
                    break
                left = until - self._clock()
                if left <= 0 or (waiting is not None and not waiting.active):
                    return Message(p.WAIT, {"stopping": False})
                self.news.wait(left)
            taken = last_accepted(self._state, client)
        place = opened.place
        if held == place:  # it was here before it, or we, came back: no need to send the adapter again
            return Message(p.TASK, {**place, "held": True, "taken": taken})
        task = opened.phase.task(client)
        return Message(p.TASK, {**task.header, **place, "held": False, "taken": taken}, task.tensors)

    def _answer(self, client: int, message: Message) -> Message:
        header = message.header
        phase, round_index = p.text(header, "phase"), p.whole(header, "round")
        start = p.text(header, "start")
        with self.news:
            if self._roster.heard(client) is None:
                return Message(p.REJOIN)
            opened = self.opened
        here = f"Client {client}'s answer for round {round_index}, phase {phase},"
        if opened is None or (opened.round, opened.phase.name) != (round_index, phase) or opened.closed:
            return self._refuse("late", f"{here} came when that was over.", client)
        if client not in opened.clients:
            return self._refuse("not_drawn", f"{here} was not asked for.", client)
        if client in opened.answered:
            return self._refuse("duplicate", f"{here} is here already.", client)
        if start != opened.phase.start:
            return self._refuse("stale", f"{here} was computed from another adapter than the server's.", client)
        unusable = ""
        try:
            answer = opened.phase.read(client, message)
        except p.ProtocolError as error:  # counted as an answer, or it would be asked for again and again
            answer, unusable = UNUSABLE, str(error)
        with self.news:
            next_one = opened.is_next(client)
        if self._shelf is not None and not next_one:
            answer = self._shelf.put(client, answer)
        with self.news:
            if opened.closed or client in opened.answered:
                if self._shelf is not None:
                    self._shelf.drop(answer)
                if opened.closed:
                    return self._refuse("late", f"{here} came when that was over.", client)
                return self._refuse("duplicate", f"{here} is here already.", client)
            opened.answers[client] = answer
            opened.answered.add(client)
            member = self._roster.heard(client)
            assert member is not None
            member.delivered = round_index
            self.news.notify_all()
        if unusable:
            return self._refuse("malformed", f"{here} cannot be used: {unusable}", client)
        self._journal.write("answer", client=client, round=round_index, phase=phase)
        return Message(p.ACCEPTED)

    def _leave(self, client: int, message: Message) -> Message:
        why = p.text(message.header, "why", "")
        with self.news:
            if self._roster.heard(client) is not None:
                self._roster.drop(client, f"left: {why}" if why else "left")
            self.news.notify_all()
        self._note("left", client, why=why)
        return Message(p.ACCEPTED)
