"""Secure aggregation between sites: the adapter of one machine, clients that go silent, and what travels."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from short_runs import CONFIGS, SHORT
from sites import Started, Wire, locked, server_of
from waiting import LONG, Clock

from fs_fedmllm import config as schema
from fs_fedmllm.distributed import secure_round as secure
from fs_fedmllm.distributed.client import RoundClient
from fs_fedmllm.distributed.errors import UnreachableError
from fs_fedmllm.distributed.journal import Journal, StatusFile
from fs_fedmllm.distributed.messages import Message
from fs_fedmllm.distributed.protocol import NetworkError
from fs_fedmllm.distributed.roles import agreement, introduction, site_identity
from fs_fedmllm.distributed.server import RoundServer
from fs_fedmllm.distributed.service import handlers_of, rounds_of
from fs_fedmllm.distributed.site_store import SiteStore
from fs_fedmllm.errors import ConfigError, PrivacyError
from fs_fedmllm.rounds.federation import Federation
from fs_fedmllm.runs.listener import Listener
from fs_fedmllm.runs.run_folder import RunFolder
from fs_fedmllm.runs.session import Session
from fs_fedmllm.runs.simulation import run
from fs_fedmllm.scenarios.federated_data import FederatedData

WORDS = [
    *SHORT, "federate.total_round_num", "1", "train.local_update_steps", "1", "federate.sample_client_num", "4",
    "fedmllm.privacy.secure_aggregation.enabled", "True", "fedmllm.privacy.secure_aggregation.threshold", "0.6",
    "federate.client_num", "4", "data.splitter_args", "[{alpha: 5.0, image_clients: 2, text_clients: 2}]",
]  # fmt: skip
CLIENTS = (1, 2, 3, 4)


def test_the_configuration_of_a_distributed_run_may_ask_for_it() -> None:
    config = schema.load(CONFIGS / "cross_i3t7.yaml", [*WORDS, "federate.mode", "distributed"])
    assert rounds_of(config) is secure.secure_round


@pytest.fixture(scope="module")
def pieces() -> Federation:
    from fs_fedmllm.scenarios.federated_data import prepare_data

    config = schema.load(CONFIGS / "cross_i3t7.yaml", WORDS)
    return locked(Federation.build(config, prepare_data(config)))


def start(
    pieces: Federation, folder: Path, wire: Wire, clock: Callable[[], float] = time.monotonic, **network: float
) -> tuple[Session, Started, dict[int, Started]]:
    """The server, which has nobody's training rows, and its clients."""
    config = pieces.config
    settings = replace(config.fedmllm.network, join_timeout=LONG, turn_timeout=LONG, give_up=LONG)
    settings = replace(settings, **network)
    blind = replace(pieces, data=replace(pieces.data, clients={}))
    blind.evaluate = pieces.evaluate  # type: ignore[method-assign]
    session = Session(blind, RunFolder(folder / "server", config), Listener())
    agreed = agreement(config, pieces.data.template)
    wire.server = RoundServer(session, settings, agreed=agreed, rounds=rounds_of(config), clock=clock, linger=3.0)
    server = Started(wire.server.run)
    sites = {client: Started(site(pieces, client, folder, wire, settings).run) for client in CLIENTS}
    return session, server, sites


def site(pieces: Federation, client: int, folder: Path, wire: Wire, settings) -> RoundClient:
    config, rows = pieces.config, pieces.data.clients[client]
    own = FederatedData(pieces.data.dataset, pieces.data.template, {client: rows}, pieces.data.manifest)
    home = folder / f"client_{client}"
    home.mkdir(parents=True, exist_ok=True)
    made = RoundClient(
        wire.channel(client), client, introduction(config, client, own), handlers_of(config, client, pieces),
        SiteStore(home / "state", site_identity(config, client, rows)), settings, Journal(home, f"client {client}"),
        StatusFile(home), sleep=lambda seconds: time.sleep(0.01),
    )  # fmt: skip
    wire.sites.append(made)
    return made


def deadline_after(clients: set[int], phase: str, clock: Clock) -> Callable[[int, Message, Message], None]:
    """For ``Wire.after``: the deadline of a phase passes as soon as these have answered, and no earlier."""
    answered: set[int] = set()

    def after(client: int, message: Message, answer: Message) -> None:
        if message.kind == "answer" and answer.kind == "accepted" and message.header["phase"] == phase:
            answered.add(client)
            if answered == clients:
                clock.advance(3 * LONG)

    return after


@pytest.fixture(scope="module")
def embedded(pieces: Federation, tmp_path_factory: pytest.TempPathFactory) -> str:
    words = [*WORDS, "outdir", str(tmp_path_factory.mktemp("embedded"))]
    results, _ = run(schema.load(CONFIGS / "cross_i3t7.yaml", words))
    return str(results["adapter_sha256"])


def test_the_adapter_of_one_machine_and_nothing_in_the_clear(pieces, embedded, tmp_path) -> None:
    wire, seen = Wire(), []
    wire.before = lambda client, message: seen.append((client, message))
    _, server, sites = start(pieces, tmp_path, wire)
    results = server.join()
    for each in sites.values():
        each.join()
    assert results["adapter_sha256"] == embedded
    assert results["participants"] == [list(CLIENTS)] and not results["refused"]
    phases = [m.header["phase"] for _, m in seen if m.kind == "answer"]
    assert sorted(set(phases)) == sorted((secure.KEYS, secure.SHARES, secure.TURN, secure.UNMASK))
    turns = [m for _, m in seen if m.kind == "answer" and m.header["phase"] == secure.TURN]
    assert len(turns) == 4
    for message in turns:
        assert set(message.tensors) == {"masked"} and "loss" not in json.dumps(dict(message.header))
        # The update itself is nearly all zeros in its upper bytes; masked, every byte value is equally frequent.
        counts = np.bincount(message.tensors["masked"].numpy().view("uint8"), minlength=256)
        assert stats.chisquare(counts).pvalue > 1e-6
    lines = (tmp_path / "server" / "metrics.jsonl").read_text().splitlines()
    assert not any("loss" in json.loads(line) for line in lines if json.loads(line)["kind"] == "turn")


@pytest.mark.parametrize("phase", [secure.KEYS, secure.SHARES, secure.TURN, secure.UNMASK])
def test_a_client_that_dies_in_a_phase_is_survived(pieces, tmp_path, phase) -> None:
    class Dead(BaseException):
        """Stands for kill -9: the client's thread ends and says nothing."""

    wire, clock = Wire(), Clock()

    def before(client: int, message: Message) -> None:
        if client == 3 and message.kind == "answer" and message.header["phase"] == phase:
            raise Dead

    wire.before = before
    wire.after = deadline_after({1, 2, 4}, phase, clock)
    session, server, sites = start(pieces, tmp_path, wire, clock)
    results = server.join()
    for client, each in sites.items():
        if client != 3:
            each.join()
    with pytest.raises(Dead):
        sites[3].join()
    # Its masked update counts once it is there, whatever becomes of it afterwards.
    assert results["participants"] == [[1, 2, 3, 4] if phase == secure.UNMASK else [1, 2, 4]]
    assert all(torch.isfinite(tensor).all() for tensor in session.state.params.values())


def test_a_round_waits_for_as_many_as_open_its_sum(pieces, tmp_path) -> None:
    """Half of the clients, the plain quorum, would end the round with a sum that nobody can open."""
    wire, clock = Wire(), Clock()

    def before(client: int, message: Message) -> None:
        if client in (2, 3) and message.kind == "answer" and message.header["phase"] == secure.TURN:
            raise UnreachableError("cut off for good")

    wire.before = before
    wire.after = deadline_after({1, 4}, secure.TURN, clock)
    _, server, _ = start(pieces, tmp_path, wire, clock)
    with pytest.raises(NetworkError, match=r"Round 0 needs 3 of 4 clients"):
        server.join()


def test_too_few_usable_answers_stop_the_run_by_name(pieces, tmp_path) -> None:
    wire = Wire()

    def before(client: int, message: Message) -> None:
        if client in (2, 3) and message.kind == "answer" and message.header["phase"] == secure.TURN:
            message.header["failed"] = "training failed"  # type: ignore[index]

    wire.before = before
    _, server, _ = start(pieces, tmp_path, wire)
    with pytest.raises(PrivacyError, match=r"2 of 4 clients sent a masked update, and the threshold is 3"):
        server.join()


def test_the_quorum_is_the_threshold_of_those_that_began(pieces, tmp_path) -> None:
    server = server_of(pieces, tmp_path / "server", Wire())
    assert [server.quorum(10), server.quorum(10, 7)] == [6, 5]
    server.settings = replace(server.settings, min_clients=8)
    assert server.quorum(10, 9) == 8


def test_a_quorum_below_the_threshold_is_refused_with_both_keys() -> None:
    load = lambda *words: schema.load(CONFIGS / "cross_i3t7.yaml", [*WORDS, *words])  # noqa: E731
    with pytest.raises(ConfigError, match=r"network\.min_clients is 2, but .*secure_aggregation\.threshold .* than 3"):
        load("fedmllm.network.min_clients", "2")
    assert load("fedmllm.network.min_clients", "3").fedmllm.network.min_clients == 3
    assert load("fedmllm.network.min_clients", "0").fedmllm.network.min_clients == 0


def test_a_client_without_the_rounds_secrets_sits_it_out(pieces) -> None:
    handlers = secure.SecureRoundClient(pieces.config, 1, pieces.server, pieces.clients.update).handlers()
    for phase in (secure.SHARES, secure.TURN, secure.UNMASK):
        said, _ = handlers[phase](Message("task", {"start": "ab", "round": 0}), {})
        assert "holds no secrets of this round" in said.header["failed"] and not said.tensors


def test_a_server_cannot_ask_for_less_than_the_sites_threshold(pieces) -> None:
    from fs_fedmllm.privacy.secure_aggregation.client import SecureClient

    name = "0" * 64
    handlers = secure.SecureRoundClient(pieces.config, 1, pieces.server, pieces.clients.update).handlers()
    mine, _ = handlers[secure.KEYS](Message("task", {"session": name, "start": name}), {})
    roster = {"1": dict(mine.header)}
    for other in range(2, 11):
        roster[str(other)] = {kind: key.hex() for kind, key in SecureClient(other).keys().items()}
    said, _ = handlers[secure.SHARES](Message("task", {"start": name, "roster": roster, "threshold": 5}), {})
    assert "threshold of 5, this site for at least 6" in said.header["failed"]
