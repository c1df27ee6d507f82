"""Clients of secure aggregation as sites have them, and a server that does as a test says; no model, no wire."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from short_runs import CONFIGS

from fs_fedmllm import config as schema
from fs_fedmllm.algorithms import State
from fs_fedmllm.distributed.answering import Handler
from fs_fedmllm.distributed.identity import Identity
from fs_fedmllm.distributed.messages import Message
from fs_fedmllm.distributed.protocol import state_digest
from fs_fedmllm.distributed.secure_client import (
    KEYS,
    SHARES,
    TURN,
    UNMASK,
    SecureRoundClient,
    by_client,
    mask_context,
    to_hex,
)
from fs_fedmllm.privacy.masked_sum import MASKED
from fs_fedmllm.privacy.secure_aggregation.client import Dealt
from fs_fedmllm.privacy.secure_aggregation.policy import Policy
from fs_fedmllm.privacy.secure_aggregation.server import SecureServer
from fs_fedmllm.rounds.client_update import ClientUpdate
from fs_fedmllm.rounds.server import ServerSide, server_optimizer
from fs_fedmllm.rounds.trainer import UpdateLog

PARAMS = {"a": torch.linspace(-1, 1, 12).reshape(3, 4), "b": torch.zeros(5)}
WORDS = ["federate.client_num", "4", "federate.sample_client_num", "4", "data.root", "x",
         "fedmllm.privacy.secure_aggregation.enabled", "True", "federate.method", "fedadam",
         "data.splitter_args", "[{alpha: 5.0, image_clients: 2, text_clients: 2}]"]  # fmt: skip
ROWS = {1: 10, 2: 3, 3: 25, 4: 7}


class Refused(Exception):
    """A client answered that it does not do this."""


def delta(client: int) -> State:
    """What a client's update changes; the same whatever it starts from, which is the best case for an attacker."""
    generator = torch.Generator().manual_seed(client)
    return {name: 0.01 * torch.randn(tensor.shape, generator=generator) for name, tensor in PARAMS.items()}


def train(client: int, round_index: int, sent: Any, carried: Any) -> ClientUpdate:
    """A turn that takes no time."""
    state = {name: sent[name] + change for name, change in delta(client).items()}
    return ClientUpdate(client, ROWS[client], state, UpdateLog(0.0, 0.0, 0.0, 1, ROWS[client], 0.0))


class Game:
    """The sites' clients in a folder, with the configuration of this module.

    Args:
        folder: each client's run folder is in it; a second game over the same folder is the same sites, restarted.
        words: more of the configuration.
        who: identities; without certificates where there is none.
    """

    def __init__(self, folder: Path, *words: str, who: dict[int, Identity] | None = None, remembers: bool = True):
        self.config = schema.load(CONFIGS / "cross_i3t7.yaml", [*WORDS, *words])
        self.side = ServerSide.of(self.config, server_optimizer(self.config))
        self.handlers: dict[int, dict[str, Handler]] = {}
        for client in ROWS:
            identity = (who or {}).get(client, Identity.plaintext(client))
            home = folder / f"client_{client}"
            made = SecureRoundClient(self.config, client, self.side, train, home, identity)
            if not remembers:  # the clients of releases before
                made._memory = NoMemory()  # type: ignore[assignment]
            self.handlers[client] = made.handlers()

    def ask(self, client: int, phase: str, header: dict[str, Any], tensors: State | None = None) -> Message:
        """A client's answer; raises what it refuses with."""
        said, _ = self.handlers[client][phase](Message("task", header, tensors or {}), {})
        if "failed" in said.header:
            raise Refused(said.header["failed"])
        return said

    def begin(self, cohort: Sequence[int], round_index: int = 0, threshold: int = 0) -> tuple[SecureServer, Policy]:
        """Keys and shares."""
        policy = Policy.of(self.config.fedmllm.privacy, self.config.sampled_clients, PARAMS, len(cohort), 1)
        server = SecureServer(threshold or policy.threshold, policy.codec.words)
        about = {"start": server.session.hex(), "round": round_index, "session": server.session.hex()}
        entries: dict[str, dict[str, Any]] = {}
        for client in cohort:
            said = self.ask(client, KEYS, about).header
            server.add_keys(client, {name: bytes.fromhex(said[name]) for name in ("seal", "mask")})
            entries[str(client)] = dict(said)
        for client in cohort:
            said = self.ask(client, SHARES, {**about, "roster": entries, "threshold": server.threshold}).header
            dealt = Dealt(by_client(said, "sealed"), bytes.fromhex(said["commitment"]), by_client(said, "shares"))
            server.add_shares(client, dealt)
        server.close_shares()
        return server, policy

    def turn(
        self, server: SecureServer, policy: Policy, client: int, round_index: int = 0, params: State | None = None
    ) -> np.ndarray:
        """A client's masked update."""
        params = PARAMS if params is None else params
        server._context = mask_context(round_index, state_digest(params))
        header = {
            "start": server.session.hex(), "round": round_index, "clients": policy.codec.clients, "weight_bound": 1,
            "sealed": to_hex(server.sealed_for(client)), "shares": to_hex(server.commitments_for(client)),
        }  # fmt: skip
        return self.ask(client, TURN, header, params).tensors[MASKED].numpy().view("uint32")

    def unmask(self, server: SecureServer, client: int, survivors: Sequence[int], round_index: int = 0) -> None:
        """A client's shares."""
        header = {"start": server.session.hex(), "round": round_index, "survivors": list(survivors)}
        said = self.ask(client, UNMASK, header).header
        server.add_unmask(client, {kind: by_client(said, kind) for kind in ("seed", "key")})

    def play(
        self, cohort: Sequence[int], round_index: int = 0, params: State | None = None, gone: Sequence[int] = ()
    ) -> State:
        """A whole round; the sum of the updates."""
        server, policy = self.begin(cohort, round_index)
        for client in cohort:
            if client not in gone:
                server.add_masked(client, self.turn(server, policy, client, round_index, params))
        survivors = server.close_masked()
        for client in survivors:
            self.unmask(server, client, survivors, round_index)
        return {name: tensor.double() * len(survivors) for name, tensor in policy.mean(server.total()).items()}


class NoMemory:
    """What a site remembered of earlier rounds before it remembered anything."""

    def check_cohort(self, *args: Any) -> None:
        """Nothing is known."""

    sending = opening = kept = check_cohort
