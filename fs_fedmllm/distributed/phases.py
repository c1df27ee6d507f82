"""A round as a sequence of exchanges with its clients.

The plain round is one exchange: every client gets the global adapter and gives its own back. A protocol that needs
more (secure aggregation: keys, shares, masked updates, unmasking) is a generator of further phases::

    def masked_round(session, rows):    # rows: client -> its number of rows, ascending
        keys = Keys(...)
        alive = yield keys              # the clients that answered in time, ascending
        yield MaskedUpdates(session, keys.public, alive)
        ...

The server runs one phase after the other with the same rules: deadline, quorum, late and duplicate answers. A
phase sees its answers in ascending client order, on the round loop's own thread. On the client, a handler is found
under the phase's name (``RoundClient(handlers={"turn": ..., "keys": ...})``).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping
from typing import Any

from fs_fedmllm.distributed.contracts import ANY_TENSORS, Contract
from fs_fedmllm.distributed.messages import Message
from fs_fedmllm.distributed.protocol import ProtocolError, number, state_digest, text, whole
from fs_fedmllm.errors import UpdateError
from fs_fedmllm.rounds.client_update import ClientUpdate, FailedUpdate
from fs_fedmllm.rounds.trainer import UpdateLog
from fs_fedmllm.rounds.wire import wire_bytes
from fs_fedmllm.runs.session import Session


class Phase(ABC):
    """One exchange with a round's clients.

    Attributes:
        name: the task's name on the wire; a client's handler is found under it.
        start: digest of what the answers are computed from, so that an answer to anything else is told apart.
    """

    name: str
    start: str

    @abstractmethod
    def task(self, client: int) -> Message:
        """What a client is sent. Called on a transport thread; may be called again when a client comes back.

        The server adds client, phase, round and start to the header.
        """

    def asks(self, client: int) -> bool:
        """Whether this client has a part in it; one that fell out in an earlier phase may have none."""
        return True

    @property
    def contract(self) -> Contract:
        """What the tensors of an answer must be, checked before memory is allocated for them."""
        return ANY_TENSORS

    def read(self, client: int, answer: Message) -> Any:
        """Check an answer's header and give what :meth:`take` wants. Called on a transport thread.

        Raises:
            ProtocolError: the header is not what this phase's answers have.
        """
        return answer

    @abstractmethod
    def take(self, client: int, answer: Any) -> None:
        """Use an answer; called in ascending client order."""


#: The phases of a round; a ``yield`` gives back the clients that answered in time.
Rounds = Callable[[Session, Mapping[int, int]], Generator[Phase, list[int], None]]


class Updates(Phase):
    """The clients train on the global adapter."""

    name = "turn"

    def __init__(self, session: Session, rows: Mapping[int, int]):
        self._session = session
        self._rows = rows
        current = session.round
        assert current is not None
        side = session.federation.server
        self._sent = current.message
        if side.aggregation.ranks:  # then shapes depend on the client
            self._contract = Contract(finite=False, max_bytes=2 * wire_bytes(current.received))
        else:
            self._contract = Contract.like(side.upload_like(current.received), partial=True, finite=False)
        self.start = state_digest(self._sent)

    def task(self, client: int) -> Message:
        """The global adapter."""
        return Message("turn", {}, self._sent)

    @property
    def contract(self) -> Contract:
        """What an update consists of, compressed or not; a client may send less of it.

        Values that are not finite get through to the check of the update, which names the client in the results.
        """
        return self._contract

    def read(self, client: int, answer: Message) -> ClientUpdate | FailedUpdate:
        """The update, or why there is none."""
        try:
            return self._update(client, answer)
        except (ProtocolError, UpdateError) as error:
            return FailedUpdate(client, str(error))

    def _update(self, client: int, answer: Message) -> ClientUpdate:
        header = answer.header
        if "failed" in header:
            raise UpdateError(text(header, "failed"))
        rows = whole(header, "rows", low=1)
        if rows != self._rows[client]:
            raise UpdateError(f"it joined with {self._rows[client]} rows and now reports {rows}")
        raw = header.get("log")
        figures: Mapping[str, Any] = raw if isinstance(raw, dict) else {}
        log = UpdateLog(
            loss=number(figures, "loss"),
            penalty=number(figures, "penalty"),
            grad_norm=number(figures, "grad_norm"),
            steps=whole(figures, "steps"),
            rows=whole(figures, "rows"),
            seconds=number(figures, "seconds", low=0),
        )
        return ClientUpdate(client, rows, dict(answer.tensors), log)

    def take(self, client: int, answer: ClientUpdate | FailedUpdate) -> None:
        """Check it and add it to the round's sum."""
        self._session.take(answer)


def plain_round(session: Session, rows: Mapping[int, int]) -> Generator[Phase, list[int], None]:
    """Every client trains; the updates are summed as they are."""
    yield Updates(session, rows)
