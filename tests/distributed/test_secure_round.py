"""Secure aggregation between sites: the adapter of one machine, clients that go silent, and what travels."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
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
from fs_fedmllm.distributed.answering import Handler
from fs_fedmllm.distributed.attendance import Stopped
from fs_fedmllm.distributed.authority import create_authority, create_identity
from fs_fedmllm.distributed.client import RoundClient
from fs_fedmllm.distributed.errors import UnreachableError
from fs_fedmllm.distributed.identity import Identity
from fs_fedmllm.distributed.journal import Journal, StatusFile
from fs_fedmllm.distributed.messages import Message
from fs_fedmllm.distributed.protocol import NetworkError
from fs_fedmllm.distributed.roles import agreement, introduction, site_identity
from fs_fedmllm.distributed.secure_client import SecureRoundClient
from fs_fedmllm.distributed.server import ATTEMPTS, RoundServer
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
    # What a client does with its own rows is under no mask and travels in no message but the server's switch.
    "fedmllm.label_prior", "1", "fedmllm.stand_ins.use", "force", "fedmllm.stand_ins.guard", "none",
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
    pieces: Federation,
    folder: Path,
    wire: Wire,
    clock: Callable[[], float] = time.monotonic,
    who: Mapping[int, Identity] | None = None,
    **network: float,
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
    who = who or {}
    sites = {client: Started(site(pieces, client, folder, wire, settings, who.get(client)).run) for client in CLIENTS}
    return session, server, sites


def site(
    pieces: Federation, client: int, folder: Path, wire: Wire, settings, who: Identity | None = None
) -> RoundClient:
    config, rows = pieces.config, pieces.data.clients[client]
    own = FederatedData(pieces.data.dataset, pieces.data.template, {client: rows}, pieces.data.manifest)
    home = folder / f"client_{client}"
    home.mkdir(parents=True, exist_ok=True)
    made = RoundClient(
        wire.channel(client), client, introduction(config, client, own),
        handlers_of(config, client, pieces, home, who or Identity.plaintext(client)),
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
    assert [(entry["image"], entry["text"]) for entry in results["stand_ins"]] == [(True, True)]
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


def again_in(folder: Path, pieces: Federation, wire: Wire) -> Started:
    """A server in the place of one that crashed, over what it left on disk; its clients are those that there were."""
    config = pieces.config
    settings = replace(config.fedmllm.network, join_timeout=LONG, turn_timeout=LONG, give_up=LONG)
    blind = replace(pieces, data=replace(pieces.data, clients={}))
    blind.evaluate = pieces.evaluate  # type: ignore[method-assign]
    session = Session(blind, RunFolder(folder / "server", config), Listener())
    agreed = agreement(config, pieces.data.template)
    made = RoundServer(session, settings, agreed=agreed, rounds=rounds_of(config), linger=3.0)
    wire.server = made
    return Started(made.run)


class Crash(BaseException):
    """Stands for kill -9 of the server: its thread ends and says nothing."""


@pytest.mark.parametrize("moment", ["first masked update", "last masked update", "first shares", "sum is open"])
def test_a_server_that_crashed_goes_on_in_its_session(pieces, embedded, tmp_path, monkeypatch, moment) -> None:
    """With the same sum: a second session, which some client could be missing from, would open a second one."""
    wire, trained, crashed = Wire(), [], []
    update = type(pieces.clients).update

    def counted(self, client, *rest):
        trained.append(client)
        return update(self, client, *rest)

    monkeypatch.setattr(type(pieces.clients), "update", counted)

    def crash() -> None:
        crashed.append(moment)
        server, wire.server = wire.server, None
        server.session.end_round = server._run_phase = stop  # its round loop does not outlive this
        server.stop()

    def stop(*args, **kwargs):
        raise Crash

    phase = {"first masked update": secure.TURN, "first shares": secure.UNMASK}.get(moment)
    came, accepted, lock = [], threading.Event(), threading.Lock()

    def before(client: int, message: Message) -> None:
        if message.kind != "answer" or message.header["phase"] != phase or crashed:
            return
        with lock:
            came.append(client)
        if client != came[0]:  # the first one's answer is there, and no other
            assert accepted.wait(LONG)
            with lock:
                if not crashed:
                    crash()

    def after(client: int, message: Message, answer: Message) -> None:
        if message.kind == "answer" and message.header["phase"] == phase and client == came[0]:
            accepted.set()

    wire.before, wire.after = before, after
    if moment in ("last masked update", "sum is open"):
        stage = {"last masked update": "unmask", "sum is open": "opened"}[moment]
        write = secure.RoundStore.write

        def writing(self, held):
            write(self, held)
            if held.stage == stage and not crashed:
                crash()
                raise Crash

        monkeypatch.setattr(secure.RoundStore, "write", writing)
    _, server, sites = start(pieces, tmp_path, wire)
    with pytest.raises((Crash, Stopped)):
        server.join()
    results = again_in(tmp_path, pieces, wire).join()
    for each in sites.values():
        each.join()
    assert crashed == [moment]
    assert results["adapter_sha256"] == embedded
    assert results["participants"] == [list(CLIENTS)] and not results["refused"]
    assert sorted(trained) == list(CLIENTS)  # each once
    assert not list((tmp_path / "server" / "secure").iterdir())


def test_everybody_goes_down_while_shares_are_given_out(pieces, embedded, tmp_path, monkeypatch) -> None:
    """A power cut: server and clients start again, the secrets are gone, and the sum is that of the same numbers."""
    wire, trained, gave = Wire(), [], threading.Event()
    update = type(pieces.clients).update

    def counted(self, client, *rest):
        trained.append(client)
        return update(self, client, *rest)

    monkeypatch.setattr(type(pieces.clients), "update", counted)
    down = threading.Event()

    def before(client: int, message: Message) -> None:
        if down.is_set():
            raise Crash
        if message.kind == "answer" and message.header["phase"] == secure.UNMASK:
            gave.set()  # it has written down whom it helps, and its shares do not arrive
            down.set()
            raise Crash

    def after(client: int, message: Message, answer: Message) -> None:
        if client != 1 and answer.kind == "task" and answer.header["phase"] == secure.UNMASK:
            raise Crash

    wire.before, wire.after = before, after
    _, server, sites = start(pieces, tmp_path, wire)
    assert gave.wait(LONG)
    stopped, wire.server = wire.server, None
    stopped.stop()
    for each in sites.values():
        with pytest.raises(Crash):
            each.join()
    with pytest.raises(Stopped):
        server.join()
    wire.before, wire.after = lambda client, message: None, lambda client, message, answer: None
    settings = replace(pieces.config.fedmllm.network, give_up=LONG)
    again = again_in(tmp_path, pieces, wire)
    sites = {client: Started(site(pieces, client, tmp_path, wire, settings).run) for client in CLIENTS}
    results = again.join()
    for each in sites.values():
        each.join()
    assert results["adapter_sha256"] == embedded and results["participants"] == [list(CLIENTS)]
    assert sorted(trained) == list(CLIENTS)  # what was masked before is masked again
    events = [json.loads(line) for line in (tmp_path / "server" / "events.jsonl").read_text().splitlines()]
    assert [event["stage"] for event in events if event["event"] == "goes on"] == ["unmask", "over"]


def test_a_round_of_too_few_is_taken_again_among_the_same_clients(pieces, embedded, tmp_path) -> None:
    """Two of four lose their secrets after others have sent masked updates; back again, they bring the sum about."""
    wire, failed = Wire(), set()

    def before(client: int, message: Message) -> None:
        turn = message.kind == "answer" and message.header["phase"] == secure.TURN
        if client in (2, 3) and turn and client not in failed:
            failed.add(client)
            message.header["failed"] = "started again"  # type: ignore[index]

    wire.before = before
    _, server, sites = start(pieces, tmp_path, wire)
    results = server.join()
    for each in sites.values():
        each.join()
    assert results["adapter_sha256"] == embedded and results["participants"] == [list(CLIENTS)]
    assert not results["refused"]  # of the round as it was taken
    events = [json.loads(line) for line in (tmp_path / "server" / "events.jsonl").read_text().splitlines()]
    aborted = [event["says"] for event in events if event["event"] == "aborted"]
    assert len(aborted) == 1 and "2 of 4 clients sent a masked update" in aborted[0] and "started again" in aborted[0]


def test_a_round_is_taken_again_without_a_site_that_was_lost_before_masked_updates(pieces, tmp_path) -> None:
    class Dead(BaseException):
        """Stands for kill -9 of a client."""

    wire, failed = Wire(), set()

    def before(client: int, message: Message) -> None:
        if client == 4 and client in failed:
            raise Dead
        shares = message.kind == "answer" and message.header["phase"] == secure.SHARES
        if client in (3, 4) and shares and client not in failed:
            message.header["failed"] = "started again"  # type: ignore[index]
            if client == 4:
                wire.server.desk.news.acquire()  # until it is gone: the round is not taken again before

    def after(client: int, message: Message, answer: Message) -> None:
        if message.kind == "answer" and message.header.get("failed"):
            if answer.kind == "accepted":
                failed.add(client)
            if client == 4:
                wire.server.desk.handle(4, Message("leave", {"client": 4, "why": "it was killed"}))
                wire.server.desk.news.release()

    wire.before, wire.after = before, after
    _, server, sites = start(pieces, tmp_path, wire)
    assert server.join()["participants"] == [[1, 2, 3]]
    with pytest.raises(Dead):
        sites[4].join()


def test_a_client_with_wrong_shares_is_named_and_the_round_ends(pieces, embedded, tmp_path) -> None:
    wire = Wire()

    def before(client: int, message: Message) -> None:
        if client == 2 and message.kind == "answer" and message.header["phase"] == secure.UNMASK:
            message.header["seed"]["4"] = "01" * 66

    wire.before = before
    _, server, sites = start(pieces, tmp_path, wire)
    results = server.join()
    for each in sites.values():
        each.join()
    assert results["adapter_sha256"] == embedded and results["participants"] == [list(CLIENTS)]
    assert [(entry["client"], entry["reason"]) for entry in results["refused"]] == [
        (2, "client 2: secure_unmask: Client 2 sent a wrong share of client 4's seed.")
    ]


def test_a_client_whose_keys_nobody_signed_falls_out_alone(pieces, tmp_path) -> None:
    """The others would refuse a roster with them in it, and the server knows before they do."""
    folder = tmp_path / "certificates"
    create_authority(folder, "ward-study")
    for client in (0, *CLIENTS):
        create_identity(folder, client, ["localhost"] if not client else [])
    network = replace(pieces.config.fedmllm.network, certificates=str(folder))
    config = replace(pieces.config, fedmllm=replace(pieces.config.fedmllm, network=network))
    signed = replace(pieces, config=config)
    who = {client: Identity.load(folder, client) for client in CLIENTS} | {3: Identity.plaintext(3)}
    wire = Wire()

    def large(client: int, message: Message) -> None:
        if client == 4 and message.kind == "answer" and message.header["phase"] == secure.KEYS:
            message.header["certificate"] *= 100  # type: ignore[index]

    wire.before = large
    _, server, _ = start(signed, tmp_path, wire, who=who)
    with pytest.raises(PrivacyError, match="2 of 2 clients sent keys, and the threshold is 3") as failed:
        server.join()
    assert "keys of client 3 that no certificate vouches for" in str(failed.value)
    assert "certificate must be a text of at most" in str(failed.value) and "client 1:" not in str(failed.value)


def test_a_damaged_session_on_the_servers_disk_is_no_new_one(tmp_path) -> None:
    store = secure.RoundStore(tmp_path)
    store.write(secure.HeldRound("over", 3, "start", (1, 2), (), 2, 1, {}, np.zeros(0, dtype=np.uint32)))
    assert store.read(3, "start").cohort == (1, 2)
    assert store.read(4, "start") is None and store.read(3, "another") is None
    path = tmp_path / "secure" / "round.safetensors"
    path.write_bytes(path.read_bytes().replace(b"[1, 2]", b"[1, 3]"))
    with pytest.raises(ConfigError, match="not known which sum was asked for"):
        store.read(3, "start")
    store.clear()
    assert store.read(3, "start") is None


def test_too_few_usable_answers_stop_the_run_by_name(pieces, tmp_path) -> None:
    wire = Wire()

    def before(client: int, message: Message) -> None:
        if client in (2, 3) and message.kind == "answer" and message.header["phase"] == secure.TURN:
            message.header["failed"] = "training failed"  # type: ignore[index]

    wire.before = before
    _, server, _ = start(pieces, tmp_path, wire)
    with pytest.raises(PrivacyError, match=r"2 of 4 clients sent a masked update, and the threshold is 3.*failed"):
        server.join()
    events = [json.loads(line)["event"] for line in (tmp_path / "server" / "events.jsonl").read_text().splitlines()]
    assert events.count("aborted") == ATTEMPTS


def test_the_quorum_is_the_threshold_of_the_configuration(pieces, tmp_path) -> None:
    server = server_of(pieces, tmp_path / "server", Wire())
    assert server.quorum(4) == 3
    server.settings = replace(server.settings, min_clients=4)
    assert server.quorum(4) == 4


def test_a_quorum_below_the_threshold_is_refused_with_both_keys() -> None:
    load = lambda *words: schema.load(CONFIGS / "cross_i3t7.yaml", [*WORDS, *words])  # noqa: E731
    with pytest.raises(ConfigError, match=r"network\.min_clients is 2, but .*secure_aggregation\.threshold .* than 3"):
        load("fedmllm.network.min_clients", "2")
    assert load("fedmllm.network.min_clients", "3").fedmllm.network.min_clients == 3
    assert load("fedmllm.network.min_clients", "0").fedmllm.network.min_clients == 0


def handlers_for(pieces: Federation, client: int, folder: Path, who: Identity | None = None) -> dict[str, Handler]:
    who = who or Identity.plaintext(client)
    return SecureRoundClient(pieces.config, client, pieces.server, pieces.clients.update, folder, who).handlers()


def test_a_client_without_the_rounds_secrets_sits_it_out(pieces, tmp_path) -> None:
    handlers = handlers_for(pieces, 1, tmp_path)
    for phase in (secure.SHARES, secure.TURN, secure.UNMASK):
        said, _ = handlers[phase](Message("task", {"start": "ab", "round": 0}), {})
        assert "holds no secrets of this round" in said.header["failed"] and not said.tensors
