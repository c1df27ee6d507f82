"""A client's half of secure aggregation between sites: what it answers in the four phases, and what it refuses.

Who may take part, how many must, and who is who are the site's own knowledge (its configuration, its certificates and
its memory of earlier rounds), never the server's word.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fs_fedmllm.algorithms import State
from fs_fedmllm.config import Config
from fs_fedmllm.config.privacy import threshold_of
from fs_fedmllm.distributed.answering import Handler
from fs_fedmllm.distributed.identity import Identity
from fs_fedmllm.distributed.messages import Message, shown
from fs_fedmllm.distributed.protocol import ProtocolError, state_digest, text, whole
from fs_fedmllm.distributed.roles import Train
from fs_fedmllm.distributed.secure_keys import check, prove
from fs_fedmllm.distributed.secure_memory import RoundMemory
from fs_fedmllm.errors import PrivacyError, UpdateError
from fs_fedmllm.privacy.masked_sum import MASKED
from fs_fedmllm.privacy.secure_aggregation.client import SecureClient
from fs_fedmllm.privacy.secure_aggregation.policy import Policy
from fs_fedmllm.rounds.server import ServerSide

logger = logging.getLogger("fs_fedmllm.distributed")

KEYS, SHARES, TURN, UNMASK = "secure_keys", "secure_shares", "secure_turn", "secure_unmask"
#: Folder of a site's memory of earlier rounds inside its run folder.
FOLDER = "secure"


def from_hex(value: Any, what: str) -> bytes:
    """Bytes of a header.

    Raises:
        ProtocolError: they are none.
    """
    try:
        return bytes.fromhex(value)
    except (TypeError, ValueError):
        raise ProtocolError(f"{what} must be hexadecimal text.") from None


def client_id(name: Any) -> int:
    """A client's id as the name in a mapping: one way to write each, so that nobody is there twice.

    Raises:
        ProtocolError: it is none.
    """
    if not isinstance(name, str) or not (name.isascii() and name.isdigit() and len(name) < 10) or name[0] == "0":
        raise ProtocolError(f"{shown(name)} is not a client.")
    return int(name)


def by_client(header: Mapping[str, Any], name: str) -> dict[int, bytes]:
    """A mapping of a header, from client to bytes.

    Raises:
        ProtocolError: it is none.
    """
    raw = header.get(name)
    if not isinstance(raw, dict):
        raise ProtocolError(f"{name} must be a mapping by client.")
    return {client_id(key): from_hex(value, name) for key, value in raw.items()}


def to_hex(values: Mapping[int, bytes]) -> dict[str, str]:
    """For a header, what :func:`by_client` reads."""
    return {str(client): data.hex() for client, data in values.items()}


def mask_context(round_index: int, start: str) -> bytes:
    """What masks are bound to: a client that was sent another adapter, or another round, makes others."""
    return hashlib.sha256(f"{round_index}|{start}".encode()).digest()


class SecureRoundClient:
    """A client's handlers of the four phases.

    Args:
        config: of the site: who may take part, and the least threshold.
        client: id.
        server: how clients are weighted.
        train: gives the update that is masked.
        folder: the client's run folder; what was sent is remembered in it.
        identity: the site's certificate, and whom it trusts.

    Raises:
        ConfigError: what the folder remembers is damaged.
    """

    def __init__(
        self, config: Config, client: int, server: ServerSide, train: Train, folder: Path, identity: Identity
    ):
        self._privacy = config.fedmllm.privacy
        self._client = client
        self._clients = config.federate.client_num
        self._sampled = config.sampled_clients
        self._server = server
        self._train = train
        self._identity = identity
        self._memory = RoundMemory(folder / FOLDER)
        self._side: SecureClient | None = None
        self._session = ""
        self._round = -1
        self._roster: list[int] = []

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
        header = task.header
        if self._side is None or (header.get("start"), header.get("round")) != (self._session, self._round):
            raise PrivacyError("it holds no secrets of this round (it was started again?) and sits it out.")
        return self._side

    def _keys(self, task: Message) -> Message:
        session, round_index = text(task.header, "session"), whole(task.header, "round")
        self._side, self._session, self._round, self._roster = SecureClient(self._client), session, round_index, []
        keys = self._side.keys()
        proof = prove(self._identity, from_hex(session, "session"), round_index, keys)
        return Message("answer", {**{name: key.hex() for name, key in keys.items()}, **proof})

    def _shares(self, task: Message) -> Message:
        side = self._current(task)
        raw = task.header.get("roster")
        if not isinstance(raw, dict) or not all(isinstance(keys, dict) for keys in raw.values()):
            raise ProtocolError("roster must be a mapping by client.")
        entries = {client_id(name): entry for name, entry in raw.items()}
        self._check_members(list(entries))
        session, roster = from_hex(self._session, "session"), {}
        for client, entry in entries.items():
            roster[client] = {name: from_hex(entry.get(name), name) for name in ("seal", "mask")}
            check(self._identity, session, self._round, client, roster[client], entry)
        threshold = whole(task.header, "threshold")
        least = threshold_of(self._privacy.secure_aggregation.threshold, self._sampled)
        if threshold < least:
            raise PrivacyError(f"the server asks for a threshold of {threshold}, this site for at least {least}.")
        self._memory.check_cohort(self._round, roster)
        dealt = side.shares(session, roster, threshold)
        self._roster = sorted(roster)
        said = {"sealed": to_hex(dealt.sealed), "shares": to_hex(dealt.shares), "commitment": dealt.commitment.hex()}
        return Message("answer", said)

    def _check_members(self, roster: list[int]) -> None:
        """Who may take part is in the configuration that this site has agreed to."""
        strangers = sorted(client for client in roster if client > self._clients)
        if strangers:
            raise PrivacyError(
                f"the roster names client {strangers[0]}, but federate.client_num is {self._clients}: somebody is "
                "invented."
            )
        if len(roster) > self._sampled:
            raise PrivacyError(f"the roster has {len(roster)} clients, and a round of this run has {self._sampled}.")
        if self._client not in roster:
            raise PrivacyError("the roster leaves this client out.")

    def _update(self, task: Message) -> Message:
        side, header = self._current(task), task.header
        sealed, committed = by_client(header, "sealed"), by_client(header, "shares")
        clients = whole(header, "clients", low=max(1, len(self._roster)), high=self._sampled)
        weight_bound, start = whole(header, "weight_bound", low=1), state_digest(task.tensors)
        vector = self._memory.kept(self._round, start, clients, weight_bound)
        steps, seconds = 0, 0.0
        if vector is None:
            update = self._train(self._client, self._round, dict(task.tensors), {})
            steps, seconds = update.log.steps, update.log.seconds
            policy = Policy.of(self._privacy, self._sampled, update.state, clients, weight_bound)
            sent = {name: tensor.float() for name, tensor in task.tensors.items()}
            vector = policy.vector(self._client, sent, update.state, int(self._server.weight(update.rows)))
        self._memory.sending(self._round, self._roster, start, clients, weight_bound, vector)
        masked = side.masked(sealed, vector, committed, mask_context(self._round, start))
        figures = {"steps": steps, "seconds": seconds}
        return Message("answer", figures, {MASKED: torch.from_numpy(masked.view(np.int32))})

    def _unmask(self, task: Message) -> Message:
        side = self._current(task)
        survivors = task.header.get("survivors")
        if not isinstance(survivors, list) or not all(type(client) is int for client in survivors):
            raise ProtocolError("survivors must be a list of clients.")
        answer = side.unmask(survivors)  # checked there; given out only once it is remembered
        self._memory.opening(self._round, survivors)
        return Message("answer", {kind: to_hex(shares) for kind, shares in answer.items()})
