"""Secure aggregation between sites: the four exchanges of :mod:`fs_fedmllm.privacy.secure_aggregation` as phases.

phase           the server sends                                     a client answers
secure_keys     the round's session                                  two public keys, signed
secure_shares   everybody's public keys, the threshold               shares of its secrets, one sealed for each other
secure_turn     the adapter, the shares that were sealed for it      its masked update
secure_unmask   whose masked updates are in the sum                  shares that take the masks off

A client keeps the round's secrets in memory only. One that is killed in the middle and started again has none; it says
so, counts as dropped out of this round, and takes part in the next. The server keeps the session on disk from the
moment that masked updates may come (:mod:`fs_fedmllm.distributed.secure_store`), and goes on in it.

A client's loss and gradient norm are figures of its own data, so they are not sent either.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fs_fedmllm.config.network import NetworkConfig
from fs_fedmllm.distributed import secure_store as stages
from fs_fedmllm.distributed.contracts import NO_TENSORS, Contract, TensorSpec
from fs_fedmllm.distributed.identity import AUTHORITY, Identity
from fs_fedmllm.distributed.messages import Message
from fs_fedmllm.distributed.phases import Phase
from fs_fedmllm.distributed.protocol import ProtocolError, number, state_digest, text, whole
from fs_fedmllm.distributed.secure_client import (
    KEYS,
    SHARES,
    TURN,
    UNMASK,
    by_client,
    from_hex,
    mask_context,
    to_hex,
)
from fs_fedmllm.distributed.secure_keys import LONGEST, check
from fs_fedmllm.distributed.secure_store import HeldRound, RoundStore
from fs_fedmllm.errors import ConfigError, PrivacyError, TooFewError, UpdateError
from fs_fedmllm.privacy.masked_sum import MASKED, MaskedSum
from fs_fedmllm.privacy.secure_aggregation.client import Dealt
from fs_fedmllm.privacy.secure_aggregation.policy import Policy
from fs_fedmllm.privacy.secure_aggregation.server import SecureServer
from fs_fedmllm.rounds.client_update import ClientUpdate, FailedUpdate
from fs_fedmllm.rounds.trainer import UpdateLog
from fs_fedmllm.runs.session import Session


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

    def __init__(self, session: Session, server: SecureServer):
        super().__init__(session, server)
        #: Client -> what shows the others that the keys are its own.
        self.proofs: dict[int, dict[str, str]] = {}
        self._who = _trusting(session.config.fedmllm.network)

    def task(self, client: int) -> Message:
        return Message("task", {"session": self._server.session.hex()})

    def parse(self, client: int, answer: Message) -> tuple[dict[str, bytes], dict[str, str]]:
        header = answer.header
        proof = {name: header[name] for name in LONGEST if name in header}
        for name, value in proof.items():  # it goes to everybody
            if not isinstance(value, str) or len(value) > LONGEST[name]:
                raise ProtocolError(f"{name} must be a text of at most {LONGEST[name]} letters.")
        return {name: from_hex(header.get(name), name) for name in ("seal", "mask")}, proof

    def use(self, client: int, answer: tuple[dict[str, bytes], dict[str, str]]) -> None:
        keys, proof = answer
        if self._who is not None and self._session.round is not None:
            # The others would refuse the whole roster for one client's sake.
            check(self._who, self._server.session, self._session.round.index, client, keys, proof)
        self._server.add_keys(client, keys)
        self.proofs[client] = proof


class _Shares(_Step):
    name = SHARES

    def __init__(self, session: Session, server: SecureServer, proofs: Mapping[int, Mapping[str, str]]):
        super().__init__(session, server)
        self._proofs = proofs

    def asks(self, client: int) -> bool:
        return client in self._server.roster

    def task(self, client: int) -> Message:
        roster = {
            str(other): {**{name: key.hex() for name, key in keys.items()}, **self._proofs[other]}
            for other, keys in self._server.roster.items()
        }
        return Message("task", {"roster": roster, "threshold": self._server.threshold})

    def parse(self, client: int, answer: Message) -> Dealt:
        header = answer.header
        commitment = from_hex(header.get("commitment"), "commitment")
        return Dealt(by_client(header, "sealed"), commitment, by_client(header, "shares"))

    def use(self, client: int, answer: Dealt) -> None:
        self._server.add_shares(client, answer)


class _Updates(_Step):
    name = TURN

    def __init__(
        self,
        session: Session,
        server: SecureServer,
        policy: Policy,
        rows: Mapping[int, int],
        only: tuple[int, ...],
    ):
        super().__init__(session, server)
        self._only = only
        self._sent = session.round.message if session.round is not None else {}
        self._policy = policy
        self._rows = rows

    def asks(self, client: int) -> bool:
        return client in self._server.sharers

    def task(self, client: int) -> Message:
        codec, server = self._policy.codec, self._server
        figures = {
            "clients": codec.clients,
            "weight_bound": codec.weight_bound,
            "sealed": to_hex(server.sealed_for(client)),
            "shares": to_hex(server.commitments_for(client)),
        }
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
        if self._only and client not in self._only:
            raise PrivacyError("shares of this round's sum were asked for before its update came, so it is not in it.")
        self._session.take(answer)


class _Unmask(_Step):
    name = UNMASK

    def asks(self, client: int) -> bool:
        return client in self._server.survivors

    def task(self, client: int) -> Message:
        return Message("task", {"survivors": self._server.survivors})

    def parse(self, client: int, answer: Message) -> dict[str, dict[int, bytes]]:
        return {kind: by_client(answer.header, kind) for kind in ("seed", "key")}

    def use(self, client: int, answer: dict[str, dict[int, bytes]]) -> None:
        self._server.add_unmask(client, answer)


def _trusting(settings: NetworkConfig) -> Identity | None:
    """Whom the server trusts to vouch for clients' keys; None without certificates of ours."""
    folder = Path(settings.certificates)
    if settings.insecure or not (folder / f"{AUTHORITY}.crt").is_file():
        return None
    return Identity.load(folder)


def secure_round(session: Session, rows: Mapping[int, int]) -> Generator[Phase, list[int], None]:
    """A round of which the server learns the sum.

    It goes on in the session that the server's disk holds of this round, if it holds one. A session that comes to
    nothing before masked updates were asked for leaves no trace. After that, it leaves word of its clients, and a
    further one has to be among the same.

    Args:
        session: the run's book-keeping.
        rows: client -> its number of rows, ascending.

    Raises:
        TooFewError: fewer clients than the threshold were left; nothing was opened.
        PrivacyError: a client's secrets do not fit its shares.
        ConfigError: what the server's disk holds of this round is damaged.
    """
    current, side, store = session.round, session.federation.server, RoundStore(session.folder.path)
    assert current is not None
    start = state_digest(current.message)
    held = store.read(current.index, start)
    shared = side.shared(current.received)
    if held is not None and held.stage != stages.OVER:
        policy = Policy.of(side.privacy, side.sampled, shared, held.clients, held.weight_bound)
        try:
            server = SecureServer.restored(held.server, held.total)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise ConfigError(f"What {session.folder.path} holds of round {current.index} is damaged.") from error
    else:
        heaviest = max(int(side.weight(count)) for count in rows.values())
        policy = Policy.of(side.privacy, side.sampled, shared, len(rows), heaviest)
        server = SecureServer(policy.threshold, policy.codec.words, mask_context(current.index, start))
        keys = _Keys(session, server)
        yield keys
        server.close_keys()
        yield _Shares(session, server, keys.proofs)
        server.close_shares()
    # Over whom shares were asked for, if they were: the sum is opened over these or not at all.
    asked = held.survivors if held is not None else ()
    stage = held.stage if held is not None and held.stage != stages.OVER else stages.TURN

    def keep(stage: str) -> None:
        head, total = ({}, np.zeros(0, dtype=np.uint32)) if stage == stages.OVER else server.state()
        codec, cohort = policy.codec, tuple(sorted(server.roster))
        figures = (codec.clients, codec.weight_bound)
        store.write(HeldRound(stage, current.index, start, cohort, asked, *figures, head, total))

    current.aggregator = MaskedSum(server, policy)
    try:
        if stage == stages.TURN:
            keep(stages.TURN)
            yield _Updates(session, server, policy, rows, asked)
            if set(asked) - set(server.close_masked()):
                raise TooFewError(
                    f"Round {current.index}: shares of the sum over the clients {list(asked)} were asked for, and not "
                    "all of these sent their masked update again."
                )
            asked = tuple(server.survivors)
            keep(stages.UNMASK)
        if stage != stages.OPENED:
            yield _Unmask(session, server)
            server.total()
            keep(stages.OPENED)
    except TooFewError:
        keep(stages.OVER)
        raise
    current.taken[:] = server.survivors
