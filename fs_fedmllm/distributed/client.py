"""The client's loop: ask for a task, work on it, keep the answer on disk, deliver it; come back after any break.

A client only calls; nothing listens at its end. What a task means is its handler's business: the plain run has one,
``turn``, which trains (:func:`fs_fedmllm.distributed.roles.update_handler`). Others (keys, masks) are added by name.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from fs_fedmllm.config.network import NetworkConfig
from fs_fedmllm.distributed import protocol as p
from fs_fedmllm.distributed.answering import Handler, kept_answer, new_answer, place_of
from fs_fedmllm.distributed.contracts import ANY_TENSORS, Contract
from fs_fedmllm.distributed.errors import (
    BusyError,
    CertificateError,
    ContractError,
    DeadlineError,
    FrameError,
    IdentityError,
    RefusedError,
    TransportError,
    UnreachableError,
)
from fs_fedmllm.distributed.journal import Journal, StatusFile
from fs_fedmllm.distributed.messages import Message
from fs_fedmllm.distributed.site_store import Pending, SiteStore

#: First and longest pause before the server is called again, in seconds.
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 15.0
#: Longest that a small request may take, in seconds.
SMALL_REQUEST = 60.0
#: How often a message is sent again whose bytes, or whose sender's certificate, arrived damaged.
_TRIES = 8


class Channel(Protocol):
    """A way to the server; :class:`fs_fedmllm.distributed.transport.TransportClient` is one."""

    def exchange(self, message: Message, timeout: float, contract: Contract = ANY_TENSORS) -> Message:
        """Send a message and wait for its answer."""


class Stopped(Exception):
    """The client was asked to stop; it goes on with the same command."""


class _JoinAgain(Exception):
    """The server does not know us any more."""


class RoundClient:
    """One client of a run.

    Args:
        channel: to the server.
        client: id.
        introduction: what ``join`` says beside the id: rows, missing_rate, agreed keys, manifest.
        handlers: by the name of the task's phase.
        store: the client's state on its own disk.
        settings: ``fedmllm.network``.
        journal: events.
        status_file: what the client is doing.
        contract: what the tensors of a task must be.
        clock: monotonic seconds.
        sleep: waits so many seconds.
    """

    def __init__(
        self,
        channel: Channel,
        client: int,
        introduction: Mapping[str, Any],
        handlers: Mapping[str, Handler],
        store: SiteStore,
        settings: NetworkConfig,
        journal: Journal,
        status_file: StatusFile,
        *,
        contract: Contract = ANY_TENSORS,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ):
        self.client = client
        self._channel = channel
        self._introduction = introduction
        self._handlers = handlers
        self._store = store
        self._settings = settings
        self._journal = journal
        self._status_file = status_file
        self._contract = contract
        self._clock = clock
        self._sleep = sleep
        self._stopping = False
        self._interruptible = False
        self._undelivered: Message | None = None
        self._status: dict[str, Any] = {"site": f"client {client}", "doing": "starting", "round": None}
        self._status |= {"rounds": None, "delivered": None, "last_error": ""}

    def run(self) -> Message:
        """Take part until the run ends.

        Returns:
            The server's last word: figures, and the final adapter as tensors.

        Raises:
            Stopped: :meth:`stop` was called.
            JoinRefusedError: the server does not take this client.
            NetworkError: the server was out of reach for longer than ``fedmllm.network.give_up``.
            FedMLLMError: what a handler raises beside UpdateError.
        """
        self._journal.write("started", client=self.client, base=str(self._introduction.get("base", ""))[:12])
        try:
            while True:
                try:
                    self._join()
                    return self._work()
                except _JoinAgain:
                    self._journal.write("server came back")
        except Stopped:
            self._leave("asked to stop")
            self._say(doing="stopped")
            self._journal.write("stopped")
            raise
        except Exception as error:
            self._say(doing="failed", last_error=f"{type(error).__name__}: {error}")
            self._journal.write("error", says=f"{type(error).__name__}: {error}")
            raise

    def stop(self) -> None:
        """End at the next step: at once while waiting, after the update while training. For signal handlers.

        Raises:
            Stopped: through the code that the main thread was in, if that only waits.
        """
        self._stopping = True
        if self._interruptible:
            self._interruptible = False
            raise Stopped

    def _join(self) -> None:
        self._say(doing="joining")
        answer = self._call(Message(p.JOIN, {**self._introduction, "client": self.client}), SMALL_REQUEST)
        if answer.kind == p.REFUSED:
            raise p.JoinRefusedError(f"The server refused client {self.client}: {answer.header.get('says')}")
        self._expect(answer, p.WELCOME)
        self._say(doing="waiting", round=answer.header.get("round"), rounds=answer.header.get("rounds"))
        self._journal.write("joined", round=answer.header.get("round"))

    def _work(self) -> Message:
        while True:
            held = self._store.pending.place if self._store.pending else None
            request = {"client": self.client, "wait": p.POLL, "held": held}
            answer = self._call(Message(p.NEXT, request), self._settings.turn_timeout)
            if answer.kind == p.FINISH:
                self._store.clear()
                self._undelivered = None
                self._leave("finished")
                self._say(doing="finished", round=answer.header.get("rounds"))
                self._journal.write("finished", adapter_sha256=answer.header.get("adapter_sha256"))
                return answer
            if answer.kind == p.REJOIN:
                raise _JoinAgain
            if answer.kind == p.WAIT:
                if answer.header.get("stopping"):  # it will be gone in a moment
                    if self._status["doing"] != "waiting for the server":
                        self._say(doing="waiting for the server")
                        self._journal.write("server stops")
                    self._pause(FIRST_PAUSE)
                continue
            self._expect(answer, p.TASK)
            self._deliver(self._answer_to(answer))

    def _answer_to(self, task: Message) -> Pending:
        """The answer to a task: the one that is kept, or a new one."""
        place = place_of(task)
        if (pending := kept_answer(task, self._store)) is not None:
            self._journal.write("delivers again", round=place["round"], phase=place["phase"])
            return pending

        def begin() -> None:
            self._say(doing=str(place["phase"]), round=place["round"])
            self._journal.write("task", round=place["round"], phase=place["phase"])

        return new_answer(task, self._handlers, self._store, begin)

    def _deliver(self, pending: Pending) -> None:
        self._say(doing="delivering")
        place, answer = pending.place, pending.answer
        message = Message(p.ANSWER, {**answer.header, "client": self.client}, answer.tensors)
        self._undelivered = message
        try:
            reply = self._call(message, self._settings.turn_timeout)
        except TransportError as error:
            # It got there and was not taken: say why there is none, or the server would ask again and again.
            self._say(last_error=str(error))
            self._journal.write("refused", round=place["round"], says=str(error))
            failed = {**place, "client": self.client, "failed": f"its answer was refused: {error}"}
            reply = self._call(Message(p.ANSWER, failed), SMALL_REQUEST)
        self._undelivered = None
        if reply.kind == p.REJOIN:
            raise _JoinAgain
        if reply.kind == p.REFUSED:
            says = str(reply.header.get("says"))
            self._say(doing="waiting", last_error=says)
            self._journal.write("refused", round=place["round"], reason=reply.header.get("reason"), says=says)
            return
        self._expect(reply, p.ACCEPTED)
        self._say(doing="waiting", delivered=place["round"])
        self._journal.write("delivered", round=place["round"], phase=place["phase"])

    def _call(self, message: Message, timeout: float) -> Message:
        """Send until there is an answer, with pauses that grow; a broken connection is made anew."""
        pause = FIRST_PAUSE
        failing: float | None = None  # since when
        tries = 0
        while True:
            try:
                with _Interruptible(self):
                    answer = self._channel.exchange(message, timeout, self._contract)
            except TransportError as error:
                # Bytes that were damaged on the way look like a forger's; one that persists is not the way's fault.
                damaged = isinstance(error, FrameError | IdentityError) and not isinstance(
                    error, ContractError | CertificateError
                )
                tries += damaged
                passing = isinstance(error, UnreachableError | BusyError | DeadlineError)
                if not passing and not (damaged and tries <= _TRIES):
                    raise
                if failing is None:
                    failing = self._clock()
                    self._say(doing="out of reach", last_error=str(error))
                    self._journal.write("unreachable", says=str(error))
                silent = self._clock() - failing
                if silent > self._settings.give_up:
                    raise p.NetworkError(
                        f"The server was out of reach for {silent:.0f} seconds ({error}) Start the same command "
                        "again when it is back: this client goes on where it stands."
                    ) from error
                self._pause(random.uniform(0.5, 1.0) * pause)
                pause = min(2 * pause, LONGEST_PAUSE)
                continue
            if failing is not None:
                self._journal.write("reached again", after=round(self._clock() - failing, 1))
                self._say(doing="calling")
            return answer

    def _pause(self, seconds: float) -> None:
        with _Interruptible(self):
            self._sleep(seconds)

    def _leave(self, why: str) -> None:
        """Say good-bye, with what was computed last; a server that does not hear it finds out by itself."""
        try:
            if self._undelivered is not None:
                self._channel.exchange(self._undelivered, SMALL_REQUEST)
            self._channel.exchange(Message(p.LEAVE, {"client": self.client, "why": why}), 5.0)
        except TransportError as error:
            self._journal.write("left unheard", says=str(error))

    def _expect(self, answer: Message, kind: str) -> None:
        if answer.kind != kind:
            raise RefusedError(f"The server answered {answer.kind!r} ({answer.header.get('says', '')}).")

    def _say(self, **news: Any) -> None:
        self._status |= news
        self._status_file.write(self._status, now=self._status["doing"] in ("stopped", "failed", "finished"))


class _Interruptible:
    """A stretch in which a request to stop need not wait."""

    def __init__(self, client: RoundClient):
        self._of = client

    def __enter__(self) -> None:
        if self._of._stopping:
            raise Stopped
        self._of._interruptible = True

    def __exit__(self, *exception: object) -> None:
        self._of._interruptible = False
