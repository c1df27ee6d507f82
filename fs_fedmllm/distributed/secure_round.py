"""Secure aggregation between sites: the four exchanges of :mod:`fs_fedmllm.privacy.secure_aggregation` as phases.

phase           the server sends                                     a client answers
secure_keys     the round's session                                  two public keys
secure_shares   everybody's public keys, the threshold               shares of its secrets, one sealed for each other
secure_turn     the adapter, the shares that were sealed for it      its masked update
secure_unmask   whose masked updates are in the sum                  shares that take the masks off

A client keeps the round's secrets in memory only. One that is killed in the middle and started again has none; it says
so, counts as dropped out of this round, and takes part in the next. A server that is started again begins the round
anew, with another session: answers that belong to the old one fit nothing any more.

A client's loss and gradient norm are figures of its own data, so they are not sent either.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Mapping
from typing import Any

import numpy as np
import torch

from fs_fedmllm.algorithms import State
from fs_fedmllm.config import Config
from fs_fedmllm.config.privacy import threshold_of
from fs_fedmllm.distributed.answering import Handler
from fs_fedmllm.distributed.frames import NO_TENSORS, Contract, TensorSpec
from fs_fedmllm.distributed.messages import Message
from fs_fedmllm.distributed.phases import Phase
from fs_fedmllm.distributed.protocol import ProtocolError, number, text, whole
from fs_fedmllm.distributed.roles import Train
from fs_fedmllm.errors import PrivacyError, UpdateError
from fs_fedmllm.privacy.masked_sum import MASKED, MaskedSum
from fs_fedmllm.privacy.secure_aggregation.client import SecureClient
from fs_fedmllm.privacy.secure_aggregation.policy import Policy
from fs_fedmllm.privacy.secure_aggregation.server import SecureServer
from fs_fedmllm.rounds.client_update import ClientUpdate, FailedUpdate
from fs_fedmllm.rounds.server import ServerSide
from fs_fedmllm.rounds.trainer import UpdateLog
from fs_fedmllm.runs.session import Session

logger = logging.getLogger("fs_fedmllm.distributed")

KEYS, SHARES, TURN, UNMASK = "secure_keys", "secure_shares", "secure_turn", "secure_unmask"


def _from_hex(value: Any, what: str) -> bytes:
    try:
        return bytes.fromhex(value)
    except (TypeError, ValueError):
        raise ProtocolError(f"{what} must be hexadecimal text.") from None


def _by_client(header: Mapping[str, Any], name: str) -> dict[int, bytes]:
    raw = header.get(name)
    if not isinstance(raw, dict) or not all(key.isascii() and key.isdigit() and len(key) < 10 for key in raw):
        raise ProtocolError(f"{name} must be a mapping by client.")
    return {int(key): _from_hex(value, name) for key, value in raw.items()}


def _to_hex(values: Mapping[int, bytes]) -> dict[str, str]:
    return {str(client): data.hex() for client, data in values.items()}


# Server ------------------------------------------------------------------------------------------------------------


class _Step(Phase):
    """One exchange of the protocol; an answer that cannot be used makes its client a dropout, and is named."""

    def __init__(self, session: Session, server: SecureServer):
        self._session = session
        self._server = server
        self.start = server.session.hex()

    @property
    def contract(self) -> Contract:
        """No tensors, unless the step says otherwise."""
        return NO_TENSORS

    def read(self, client: int, answer: Message) -> Any:
        """What the client sent, or why there is nothing."""
        try:
            if "failed" in answer.header:
                return UpdateError(text(answer.header, "failed"))
            return self.parse(client, answer)
        except ProtocolError as error:
            return UpdateError(str(error))

    def parse(self, client: int, answer: Message) -> Any:
        """Read an answer.

        Raises:
            ProtocolError: it is none.
        """
        raise NotImplementedError

    def take(self, client: int, answer: Any) -> None:
        """Use an answer, or record why it cannot be used."""
        try:
            if isinstance(answer, UpdateError):
                raise answer
            self.use(client, answer)
        except (PrivacyError, UpdateError) as error:
            self._session.take(FailedUpdate(client, f"{self.name}: {error}"))

    def use(self, client: int, answer: Any) -> None:
        """Give an answer to the protocol."""
        raise NotImplementedError


class _Keys(_Step):
    name = KEYS

    def task(self, client: int) -> Message:
        return Message("task", {"session": self._server.session.hex()})

    def parse(self, client: int, answer: Message) -> dict[str, bytes]:
        return {name: _from_hex(answer.header.get(name), name) for name in ("seal", "mask")}

    def use(self, client: int, answer: dict[str, bytes]) -> None:
        self._server.add_keys(client, answer)


class _Shares(_Step):
    name = SHARES

    def task(self, client: int) -> Message:
        roster = {str(c): {name: key.hex() for name, key in keys.items()} for c, keys in self._server.roster.items()}
        return Message("task", {"roster": roster, "threshold": self._server.threshold})

    def parse(self, client: int, answer: Message) -> tuple[dict[int, bytes], bytes]:
        return _by_client(answer.header, "sealed"), _from_hex(answer.header.get("commitment"), "commitment")

    def use(self, client: int, answer: tuple[dict[int, bytes], bytes]) -> None:
        self._server.add_shares(client, *answer)


class _Updates(_Step):
    name = TURN

    def __init__(self, session: Session, server: SecureServer, policy: Policy, rows: Mapping[int, int]):
        super().__init__(session, server)
        self._sent = session.round.message if session.round is not None else {}
        self._policy = policy
        self._rows = rows

    def task(self, client: int) -> Message:
        codec = self._policy.codec
        sealed = _to_hex(self._server.sealed_for(client)) if client in self._server.sharers else {}
        figures = {"clients": codec.clients, "weight_bound": codec.weight_bound, "sealed": sealed}
        return Message("task", figures, self._sent)

    @property
    def contract(self) -> Contract:
        return Contract({MASKED: TensorSpec(torch.int32, (self._server.words,))}, partial=True)

    def parse(self, client: int, answer: Message) -> ClientUpdate:
        if MASKED not in answer.tensors:
            raise ProtocolError("the answer has no masked update")
        header = answer.header
        unknown = float("nan")  # the client's own affair, see above
        steps, seconds = whole(header, "steps"), number(header, "seconds", low=0)
        log = UpdateLog(unknown, unknown, unknown, steps, self._rows[client], seconds)
        return ClientUpdate(client, self._rows[client], {MASKED: answer.tensors[MASKED]}, log)

    def use(self, client: int, answer: ClientUpdate) -> None:
        self._session.take(answer)


class _Unmask(_Step):
    name = UNMASK

    def task(self, client: int) -> Message:
        return Message("task", {"survivors": self._server.survivors})

    def parse(self, client: int, answer: Message) -> dict[str, dict[int, bytes]]:
        return {kind: _by_client(answer.header, kind) for kind in ("seed", "key")}

    def use(self, client: int, answer: dict[str, dict[int, bytes]]) -> None:
        self._server.add_unmask(client, answer)


def secure_round(session: Session, rows: Mapping[int, int]) -> Generator[Phase, list[int], None]:
    """A round of which the server learns the sum.

    Args:
        session: the run's book-keeping.
        rows: client -> its number of rows, ascending.

    Raises:
        PrivacyError: fewer clients than the threshold were left; nothing was opened.
    """
    current, side = session.round, session.federation.server
    assert current is not None
    heaviest = max(int(side.weight(count)) for count in rows.values())
    policy = Policy.of(side.privacy, side.sampled, side.shared(current.received), len(rows), heaviest)
    server = SecureServer(policy.threshold, policy.codec.words)
    yield _Keys(session, server)
    server.close_keys()
    yield _Shares(session, server)
    server.close_shares()
    current.aggregator = MaskedSum(server, policy)
    yield _Updates(session, server, policy, rows)
    server.close_masked()
    yield _Unmask(session, server)


# Client ------------------------------------------------------------------------------------------------------------


class SecureRoundClient:
    """A client's handlers of the four phases.

    Args:
        config: of the site; the threshold that it asks for is the client's own least.
        client: id.
        server: how clients are weighted.
        train: gives the update that is masked.
    """

    def __init__(self, config: Config, client: int, server: ServerSide, train: Train):
        self._privacy = config.fedmllm.privacy
        self._client = client
        self._sampled = config.sampled_clients
        self._server = server
        self._train = train
        self._side: SecureClient | None = None
        self._session = ""

    def handlers(self) -> dict[str, Handler]:
        """By the name of the phase."""
        steps = {KEYS: self._keys, SHARES: self._shares, TURN: self._update, UNMASK: self._unmask}
        return {name: self._answering(step) for name, step in steps.items()}

    def _answering(self, step: Callable[[Message], Message]) -> Handler:
        def handle(task: Message, client_state: State) -> tuple[Message, State]:
            try:
                return step(task), client_state
            except (PrivacyError, ProtocolError, UpdateError) as error:
                logger.warning("Secure aggregation, client %d: %s", self._client, error)
                return Message("answer", {"failed": f"client {self._client}: {error}"}), client_state

        return handle

    def _current(self, task: Message) -> SecureClient:
        if self._side is None or task.header.get("start") != self._session:
            raise PrivacyError("it holds no secrets of this round (it was started again?) and sits it out.")
        return self._side

    def _keys(self, task: Message) -> Message:
        self._session = text(task.header, "session")
        self._side = SecureClient(self._client)
        return Message("answer", {name: key.hex() for name, key in self._side.keys().items()})

    def _shares(self, task: Message) -> Message:
        side = self._current(task)
        raw = task.header.get("roster")
        if not isinstance(raw, dict) or not all(isinstance(keys, dict) for keys in raw.values()):
            raise ProtocolError("roster must be a mapping by client.")
        seal = _by_client({"roster": {client: keys.get("seal") for client, keys in raw.items()}}, "roster")
        mask = _by_client({"roster": {client: keys.get("mask") for client, keys in raw.items()}}, "roster")
        roster = {client: {"seal": seal[client], "mask": mask[client]} for client in seal}
        threshold = whole(task.header, "threshold")
        least = threshold_of(self._privacy.secure_aggregation.threshold, len(roster))
        if threshold < least:
            raise PrivacyError(f"the server asks for a threshold of {threshold}, this site for at least {least}.")
        sealed, commitment = side.shares(_from_hex(self._session, "session"), roster, threshold)
        return Message("answer", {"sealed": _to_hex(sealed), "commitment": commitment.hex()})

    def _update(self, task: Message) -> Message:
        side = self._current(task)
        header = task.header
        sealed = _by_client(header, "sealed")
        update = self._train(self._client, whole(header, "round"), dict(task.tensors), {})
        clients, weight_bound = whole(header, "clients", low=1), whole(header, "weight_bound", low=1)
        policy = Policy.of(self._privacy, self._sampled, update.state, clients, weight_bound)
        start = {name: tensor.float() for name, tensor in task.tensors.items()}
        weight = int(self._server.weight(update.rows))
        vector = policy.vector(self._client, start, update.state, weight)
        masked = torch.from_numpy(side.masked(sealed, vector).view(np.int32))
        return Message("answer", {"steps": update.log.steps, "seconds": update.log.seconds}, {MASKED: masked})

    def _unmask(self, task: Message) -> Message:
        side = self._current(task)
        survivors = task.header.get("survivors")
        if not isinstance(survivors, list) or not all(type(client) is int for client in survivors):
            raise ProtocolError("survivors must be a list of clients.")
        answer = side.unmask(survivors)
        return Message("answer", {kind: _to_hex(shares) for kind, shares in answer.items()})
