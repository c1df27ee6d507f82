"""The round loop: the adapter of one machine, whatever happens on the way."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from short_runs import CONFIGS, SHORT
from sites import Started, Wire, events, locked, server_of, site_of
from waiting import LONG, Clock, wait_until

from fs_fedmllm import config as schema
from fs_fedmllm.aggregators import RunningMean
from fs_fedmllm.distributed.attendance import Stopped
from fs_fedmllm.distributed.client import Stopped as ClientStopped
from fs_fedmllm.distributed.errors import RefusedError, UnreachableError
from fs_fedmllm.distributed.messages import Message
from fs_fedmllm.distributed.protocol import JoinRefusedError, NetworkError, state_digest
from fs_fedmllm.distributed.roles import introduction
from fs_fedmllm.distributed.throttle import Throttle
from fs_fedmllm.errors import UpdateError
from fs_fedmllm.rounds.client import ClientSide
from fs_fedmllm.rounds.client_update import ClientUpdate
from fs_fedmllm.rounds.federation import Federation
from fs_fedmllm.rounds.trainer import UpdateLog
from fs_fedmllm.runs.simulation import run
from fs_fedmllm.scenarios.federated_data import prepare_data

WORDS = [*SHORT, "federate.total_round_num", "4", "federate.client_num", "3", "federate.sample_client_num", "3",
         "eval.freq", "4", "fedmllm.eval.limit", "4", "data.splitter_args", "[{alpha: 5.0}]"]  # fmt: skip
LOG = UpdateLog(0.0, 0.0, 0.0, 0, 0, 0.0)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Federation, dict[str, Any], schema.Config]:
    """A federation of three clients, the results of its embedded run, and the configuration of that."""
    words = [*WORDS, "outdir", str(tmp_path_factory.mktemp("embedded"))]
    config = schema.load(CONFIGS / "aligned_a50.yaml", words)
    embedded, _ = run(config)
    federation = locked(Federation.build(config, prepare_data(config)))
    federation.config = replace(config, federate=replace(config.federate, mode="distributed"))
    return federation, embedded, config


def steps(federation: Federation, calls: list[tuple[int, int]] | None = None) -> Any:
    """A turn without training: every value grows by (client + round) / 1024."""

    def turn(client: int, round_index: int, state: Any, carried: Any) -> ClientUpdate:
        if calls is not None:
            calls.append((client, round_index))
        grown = {name: tensor + (client + round_index) / 1024 for name, tensor in state.items()}
        return ClientUpdate(client, len(federation.data.clients[client]), grown, LOG)

    return turn


def stepped(federation: Federation, participants: list[list[int]]) -> str:
    """Digest of what :func:`steps` must end with when these clients took part."""
    state = federation.initial_state()
    server = federation.optimizer.init(state)
    for index, clients in enumerate(participants):
        mean = RunningMean(state)
        for client in clients:
            update = steps(federation)(client, index, state, {})
            mean.add(client, federation.server.weight(update.rows), update.state)
        state, server = federation.optimizer.step(state, server, mean.mean())
    return state_digest(state)


def deadline_after(clients: set[int], clock: Clock) -> Any:
    """For ``Wire.after``: the deadline of round 1 passes as soon as these have answered, and no earlier."""
    answered: set[int] = set()

    def after(client: int, message: Message, answer: Message) -> None:
        if message.kind == "answer" and answer.kind == "accepted" and message.header["round"] == 1:
            answered.add(client)
            if answered == clients:
                clock.advance(2 * LONG)

    return after


def test_a_distributed_run_has_the_adapter_of_the_embedded_engine(shared, tmp_path: Path) -> None:
    federation, embedded, _ = shared
    wire = Wire()
    loop = Started(server_of(federation, tmp_path / "server", wire).run)
    sites = [Started(site_of(federation, client, tmp_path, wire).run) for client in (1, 2, 3)]
    results = loop.join()
    assert results["adapter_sha256"] == embedded["adapter_sha256"]
    assert results["evaluations"] == embedded["evaluations"]
    assert results["participants"] == embedded["participants"] == [[1, 2, 3]] * 4
    for site in sites:
        assert site.join().header["adapter_sha256"] == embedded["adapter_sha256"]
    status = json.loads((tmp_path / "server" / "status.json").read_text())
    assert status["doing"] == "finished" and status["round"] == 4
    assert json.loads((tmp_path / "client_1" / "status.json").read_text())["delivered"] == 3
    assert len(events(tmp_path / "server", "answer")) == 12


def test_a_client_that_is_away_is_left_out_and_a_replay_gives_the_same_adapter(
    shared, tmp_path: Path, monkeypatch
) -> None:
    """Its calls do not get through from round 1 to round 3."""
    federation, embedded, config = shared
    wire, clock = Wire(), Clock()
    server = server_of(federation, tmp_path / "server", wire, clock)
    rounds = server._round

    def watched() -> None:
        if server.session.state.round == 3:  # it is back before the last round starts
            wait_until(lambda: not server.roster.missing([2]))
        rounds()

    def away(client: int, message: Message) -> None:
        if client == 2 and 0 < server.session.state.round < 3:
            raise UnreachableError("cut")

    wire.before = away
    wire.after = deadline_after({1, 3}, clock)
    server._round = watched
    loop = Started(server.run)
    sites = [Started(site_of(federation, client, tmp_path, wire, steps(federation)).run) for client in (1, 2, 3)]
    results = loop.join()
    assert results["participants"] == [[1, 2, 3], [1, 3], [1, 3], [1, 2, 3]]
    lost = events(tmp_path / "server", "lost")
    assert [(line["round"], line["client"], line["why"]) for line in lost] == [(1, 2, "no answer by the deadline")]
    missing = [line for line in events(tmp_path / "server", "missing") if "round" in line]
    assert [(line["round"], line["client"]) for line in missing] == [(2, 2)]
    assert "missed round 1: no answer by the deadline; last seen 20" in missing[0]["why"]
    for site in sites:
        assert state_digest(site.join().tensors) == stepped(federation, results["participants"])
    record = tmp_path / "server" / "results.json"
    monkeypatch.setattr(ClientSide, "update", lambda self, *given: steps(federation)(*given))
    replay = replace(config, outdir=str(tmp_path), fedmllm=replace(config.fedmllm, replay=str(record)))
    again, _ = run(replay)
    assert again["adapter_sha256"] == results["adapter_sha256"] != embedded["adapter_sha256"]
    assert again["participants"] == results["participants"]


@pytest.mark.parametrize("moment", ["after two answers", "after the last answer", "before the checkpoint"])
def test_a_server_that_dies_goes_on_with_the_same_bytes(shared, tmp_path: Path, moment: str, monkeypatch) -> None:
    federation, _, _ = shared
    wire, calls = Wire(), []
    first = server_of(federation, tmp_path / "server", wire)
    answered, gone = [], threading.Event()

    def die() -> None:
        wire.server = None
        first.stop()  # as far as anybody else can tell, it is dead: nobody hears from it again
        gone.set()

    def count(client: int, message: Message, answer: Message) -> None:
        if message.kind == "answer" and message.header["round"] == 1 and answer.kind == "accepted":
            answered.append(client)
            if (moment, len(answered)) in (("after two answers", 2), ("after the last answer", 3)):
                die()
                raise UnreachableError("reset")

    if moment == "before the checkpoint":
        kept = first.session.checkpoint

        def checkpoint() -> None:
            if first.session.state.round == 2:
                die()
                first.attendance.look_up()
            kept()

        monkeypatch.setattr(first.session, "checkpoint", checkpoint)
    wire.after = count
    loop = Started(first.run)
    sites = [
        Started(site_of(federation, client, tmp_path, wire, steps(federation, calls)).run) for client in (1, 2, 3)
    ]
    assert gone.wait(LONG)
    with pytest.raises(Stopped):
        loop.join()
    wire.after = lambda client, message, answer: None
    results = Started(server_of(federation, tmp_path / "server", wire).run).join()
    assert results["participants"] == [[1, 2, 3]] * 4
    for site in sites:
        assert state_digest(site.join().tensors) == stepped(federation, [[1, 2, 3]] * 4)
    # What a client had computed, it delivered again: no turn was computed twice.
    assert sorted(calls) == [(client, index) for client in (1, 2, 3) for index in range(4)]


@pytest.mark.parametrize("moment", ["before it delivers", "after it delivered"])
def test_a_client_that_dies_and_comes_back_in_time_changes_nothing(shared, tmp_path: Path, moment: str) -> None:
    federation, _, _ = shared
    wire, calls, killed = Wire(), [], []

    class Killed(BaseException):
        """Not an Exception: nothing on the way handles it, as nothing handles SIGKILL."""

    def kill(client: int, message: Message, *answer: Message) -> None:
        if client == 2 and message.kind == "answer" and message.header["round"] == 1 and not killed:
            killed.append(moment)
            raise Killed

    if moment == "before it delivers":
        wire.before = kill
    else:
        wire.after = kill
    loop = Started(server_of(federation, tmp_path / "server", wire).run)
    turn = steps(federation, calls)
    sites = [Started(site_of(federation, client, tmp_path, wire, turn).run) for client in (1, 2, 3)]
    with pytest.raises(Killed):
        sites[1].join()
    sites[1] = Started(site_of(federation, 2, tmp_path, wire, turn).run)
    results = loop.join()
    for site in sites:
        assert state_digest(site.join().tensors) == stepped(federation, [[1, 2, 3]] * 4)
    assert results["participants"] == [[1, 2, 3]] * 4
    assert sorted(calls) == [(client, index) for client in (1, 2, 3) for index in range(4)]


def test_what_a_client_carries_follows_what_the_server_used(shared, tmp_path: Path) -> None:
    """A client counts its accepted turns in what it carries; an answer that came too late does not count."""
    federation, _, _ = shared
    wire, clock = Wire(), Clock()
    seen: dict[int, list[float]] = {1: [], 2: [], 3: []}
    late = threading.Event()

    def turn(client: int, round_index: int, state: Any, carried: Any) -> ClientUpdate:
        count = carried["count/turns"] if carried else torch.zeros(1)
        seen[client].append(float(count))
        if client == 3 and round_index == 1:
            assert late.wait(LONG)  # until after the deadline
        update = steps(federation)(client, round_index, state, carried)
        return replace(update, client_state={"count/turns": count + 1})

    server = server_of(federation, tmp_path / "server", wire, clock)
    wire.after = deadline_after({1, 2}, clock)
    rounds = server._round

    def watched() -> None:
        rounds()
        if server.session.state.round == 2:
            late.set()
            # Until the late answer was refused, so that client 3 is there for round 2.
            wait_until(lambda: any(line["reason"] == "late" for line in events(tmp_path / "server", "refused")))

    (tmp_path / "server" / "events.jsonl").touch()
    server._round = watched
    loop = Started(server.run)
    sites = [Started(site_of(federation, client, tmp_path, wire, turn).run) for client in (1, 2, 3)]
    results = loop.join()
    for site in sites:
        site.join()
    assert results["participants"] == [[1, 2, 3], [1, 2], [1, 2, 3], [1, 2, 3]]
    assert seen == {1: [0, 1, 2, 3], 2: [0, 1, 2, 3], 3: [0, 1, 1, 2]}


def test_a_failed_turn_and_a_bad_update_are_named_and_left_out(shared, tmp_path: Path) -> None:
    federation, _, _ = shared
    wire = Wire()

    def turn(client: int, round_index: int, state: Any, carried: Any) -> ClientUpdate:
        if (client, round_index) == (2, 0):
            raise UpdateError("the training loss is nan")
        update = steps(federation)(client, round_index, state, carried)
        if (client, round_index) == (3, 1):
            update.state[next(iter(update.state))][0, 0] = float("nan")
        return update

    loop = Started(server_of(federation, tmp_path / "server", wire).run)
    sites = [Started(site_of(federation, client, tmp_path, wire, turn).run) for client in (1, 2, 3)]
    results = loop.join()
    assert results["participants"] == [[1, 3], [1, 2], [1, 2, 3], [1, 2, 3]]
    assert [(entry["round"], entry["client"]) for entry in results["refused"]] == [(0, 2), (1, 3)]
    assert "loss is nan" in results["refused"][0]["reason"] and "not finite" in results["refused"][1]["reason"]
    for site in sites:
        assert state_digest(site.join().tensors) == stepped(federation, results["participants"])


def test_late_duplicate_stale_and_foreign_answers_are_refused_by_name(shared, tmp_path: Path) -> None:
    federation, _, _ = shared
    wire = Wire()
    server = server_of(federation, tmp_path / "server", wire, Clock())  # a request waits until there is news
    loop = Started(server.run)
    sites = [site_of(federation, client, tmp_path, wire, steps(federation)) for client in (1, 2, 3)]
    calls = [site._channel for site in sites]

    def ask(client: int, kind: str, **header: Any) -> Message:
        return calls[client - 1].exchange(Message(kind, {"client": client, **header}), 5.0)

    assert ask(1, "next", wait=0.0).kind == "rejoin"
    for client, site in zip((1, 2, 3), sites, strict=True):
        assert ask(client, "join", **site._introduction).kind == "welcome"
    task = ask(1, "next", wait=10.0)
    assert task.kind == "task" and task.header["taken"] == -1
    place = {name: task.header[name] for name in ("phase", "round", "start")}
    again = ask(1, "next", wait=10.0, held=place)
    assert again.header["held"] and not again.tensors
    rows = len(federation.data.clients[1])
    good = {"rows": rows, "log": {**vars(LOG)}}

    def answer(client: int, tensors: Any = task.tensors, **header: Any) -> Message:
        return calls[client - 1].exchange(Message("answer", {"client": client, **place, **good, **header}, tensors), 5)

    assert answer(1, round=1, tensors={}).header["reason"] == "late"
    assert answer(1, start="0" * 64).header["reason"] == "stale"
    assert answer(1).kind == "accepted"
    assert answer(1).header["reason"] == "duplicate"
    for client, header, reason in (
        (2, {"client": 3}, "called with the certificate of client 2"),
        (2, {"wait": "long"}, "wait must be a number"),
    ):
        told = server.desk.handle(client, Message("next", {"client": client, "wait": 0.0, **header}))
        assert told.header["reason"] == "malformed" and reason in told.header["says"]
    assert server.desk.handle(1, Message("paint", {"client": 1})).header["reason"] == "malformed"
    written = (tmp_path / "server" / "events.jsonl").read_bytes()
    for kind in ("status", "next", "join", "answer", "leave", "paint"):  # certified, but not of this run
        with pytest.raises(RefusedError, match="Client 4 is not in this run's roster"):
            server.desk.handle(4, Message(kind, {"client": 4}))
    assert (tmp_path / "server" / "events.jsonl").read_bytes() == written
    assert "client 4" not in json.dumps(server.status()).lower()
    status = server.desk.handle(1, Message("status")).header
    assert status["doing"] == "turn" and status["waiting_for"] == [2, 3]
    assert [entry["state"] for entry in status["clients"]] == ["there"] * 3
    server.stop()
    with pytest.raises(Stopped):
        loop.join()
    assert ask(2, "next", wait=5.0).header == {"stopping": True}
    assert json.loads((tmp_path / "server" / "status.json").read_text())["doing"] == "stopped"


def test_a_client_that_calls_on_and_on_does_not_fill_the_journal(shared, tmp_path: Path) -> None:
    federation, _, _ = shared
    server = server_of(federation, tmp_path / "server", Wire())
    now = [0.0]
    server.desk._noted = Throttle(burst=5, every=10.0, clock=lambda: now[0])
    for _ in range(1000):
        for kind in ("paint", "leave", "join"):
            server.desk.handle(1, Message(kind, {"client": 1, "why": "\x1b[2J" + "x" * 10**5}))
    server.desk.handle(2, Message("leave", {"client": 2}))
    now[0] = 10.0
    server.desk.handle(1, Message("leave", {"client": 1}))
    lines = [json.loads(line) for line in (tmp_path / "server" / "events.jsonl").read_text().splitlines()]
    assert [line["client"] for line in lines] == [1] * 5 + [2, 1]
    assert lines[-1]["left_out"] == 2995 and "left_out" not in lines[-2]
    server.journal.write("refused", says="\x1b[2J" + "x" * 10**6)
    assert (tmp_path / "server" / "events.jsonl").stat().st_size < 10_000
    assert "[2J" in events(tmp_path / "server", "refused")[-1]["says"][:4]


def test_a_client_with_another_configuration_is_refused_with_the_key(shared, tmp_path: Path) -> None:
    federation, _, _ = shared
    wire = Wire()
    server = server_of(federation, tmp_path / "server", wire)
    site = site_of(federation, 1, tmp_path, wire)
    other = dict(site._introduction["agreed"]) | {"fedmllm.train.batch_size": 8}
    with pytest.raises(JoinRefusedError, match=r"fedmllm\.train\.batch_size is 8 on the client and 4 on the server"):
        site_of(federation, 1, tmp_path, wire, agreed=other).run()
    assert "data.root" not in other and "fedmllm.network.certificates" not in other
    server.desk._joining._manifest = "a" * 64
    with pytest.raises(JoinRefusedError, match="comes from another split"):
        site_of(federation, 1, tmp_path, wire, manifest="b" * 64).run()
    with pytest.raises(JoinRefusedError, match=r"rows must be a whole number from 1"):
        site_of(federation, 1, tmp_path, wire, rows=0).run()


def test_a_figure_that_is_no_number_travels_as_null(shared, tmp_path: Path) -> None:
    federation, _, _ = shared
    wire = Wire()
    undefined = replace(federation)
    undefined.evaluate = lambda *args, **kwargs: {"val_macro_f1": 0.5, "test_auc": float("nan")}  # type: ignore
    loop = Started(server_of(undefined, tmp_path / "server", wire).run)
    sites = [Started(site_of(federation, client, tmp_path, wire, steps(federation)).run) for client in (1, 2, 3)]
    loop.join()
    for site in sites:
        assert site.join().header["best"] == {"round": 4, "val_macro_f1": 0.5, "test_auc": None}
    assert events(tmp_path / "server", "evaluation")[0]["figures"]["test_auc"] is None


def test_a_client_with_other_base_weights_is_refused(shared, tmp_path: Path) -> None:
    """By the server's fingerprint, and by the first client's where the server has none."""
    federation, _, _ = shared
    wire = Wire()
    ours = introduction(federation.config, 1, federation.data)["base"]
    assert len(ours) == 64
    server = server_of(federation, tmp_path / "server", wire)
    server.desk._joining._base = ours
    with pytest.raises(JoinRefusedError, match=rf"client 2 .*'bbbbbbbbbbbb'.* those of the server \({ours[:12]}\)"):
        site_of(federation, 2, tmp_path, wire, base="b" * 64).run()
    assert events(tmp_path / "server", "refused")[0]["reason"] == "base"
    server.desk._joining._base = ""
    loop = Started(server.run)
    sites = [Started(site_of(federation, client, tmp_path, wire, steps(federation)).run) for client in (1, 2)]
    wait_until(lambda: len(server.roster.present([1, 2])) == 2)
    with pytest.raises(JoinRefusedError, match=r"not those of client [12] .*Compare model\.fedmllm\.path"):
        site_of(federation, 3, tmp_path, wire, base="b" * 64).run()
    sites.append(Started(site_of(federation, 3, tmp_path, wire, steps(federation), base="").run))
    loop.join()
    for site in sites:
        site.join()
    assert {event["client"] for event in events(tmp_path / "server", "base not compared")} == {3}


def test_a_client_with_another_chat_template_or_tokenizer_is_refused(shared, tmp_path: Path) -> None:
    """By the server's files, and by the first client's where the server has none; unknown files say nothing."""
    federation, _, _ = shared
    wire = Wire()
    ours = introduction(federation.config, 1, federation.data)["processor"]
    assert {"chat_template.jinja", "tokenizer.json", "tokenizer_config.json"} <= ours.keys()
    server = server_of(federation, tmp_path / "server", wire)
    server.desk._joining._processor = dict(ours)
    other = {**ours, "chat_template.jinja": "c" * 64, "tokenizer.json": "d" * 64, "vocab.txt": "e" * 64}
    says = r"Client 2 and the server differ in chat_template\.jinja, tokenizer\.json, so .*model\.fedmllm\.path"
    with pytest.raises(JoinRefusedError, match=says):
        site_of(federation, 2, tmp_path, wire, processor=other).run()
    assert events(tmp_path / "server", "refused")[0]["reason"] == "processor"
    malformed: tuple[Any, ...] = (["tokenizer.json"], {"tokenizer.json": 3}, {str(n): "f" for n in range(201)})
    for said in malformed:
        with pytest.raises(JoinRefusedError, match="processor must be a mapping of at most 200 texts"):
            site_of(federation, 2, tmp_path, wire, processor=said).run()
    server.desk._joining._processor = {}
    loop = Started(server.run)
    sites = [Started(site_of(federation, client, tmp_path, wire, steps(federation)).run) for client in (1, 2)]
    wait_until(lambda: len(server.roster.present([1, 2])) == 2)
    with pytest.raises(JoinRefusedError, match=r"Client 3 and client [12] differ in chat_template"):
        site_of(federation, 3, tmp_path, wire, processor=other).run()
    sites.append(Started(site_of(federation, 3, tmp_path, wire, steps(federation), processor={}).run))
    loop.join()
    for site in sites:
        site.join()
    assert {event["client"] for event in events(tmp_path / "server", "processor not compared")} == {3}


def test_too_few_clients_for_too_long_end_the_server_and_it_says_who(shared, tmp_path: Path) -> None:
    federation, _, _ = shared
    wire = Wire()
    server = server_of(federation, tmp_path / "server", wire, min_clients=3, join_timeout=0.2, give_up=1.0)
    site = Started(site_of(federation, 1, tmp_path, wire, steps(federation)).run)
    with pytest.raises(NetworkError, match=r"needs 3 of 3 clients.*client 2 has not joined.*client 3 has not"):
        server.run()
    assert json.loads((tmp_path / "server" / "status.json").read_text())["last_error"].startswith("NetworkError")
    wire.server = None
    wire.server = server_of(federation, tmp_path / "server", wire)
    rest = [Started(site_of(federation, c, tmp_path, wire, steps(federation)).run) for c in (2, 3)]
    results = Started(wire.server.run).join()
    for each in (site, *rest):
        assert state_digest(each.join().tensors) == stepped(federation, results["participants"])


def test_a_client_stops_where_asked_and_without_a_server_gives_up(shared, tmp_path: Path) -> None:
    federation, _, _ = shared
    wire, calls = Wire(), []
    loop = Started(server_of(federation, tmp_path / "server", wire).run)

    def turn(client: int, round_index: int, state: Any, carried: Any) -> ClientUpdate:
        if client == 1 and round_index == 1 and (1, 1) not in calls:
            stopping.stop()  # in the middle of a turn: it is finished, kept and delivered
        return steps(federation, calls)(client, round_index, state, carried)

    stopping = site_of(federation, 1, tmp_path, wire, turn)
    sites = [Started(stopping.run)]
    sites += [Started(site_of(federation, c, tmp_path, wire, turn).run) for c in (2, 3)]
    with pytest.raises(ClientStopped):
        sites[0].join()
    assert events(tmp_path / "server", "left")[0]["why"] == "asked to stop"
    assert json.loads((tmp_path / "client_1" / "status.json").read_text())["doing"] == "stopped"
    sites[0] = Started(site_of(federation, 1, tmp_path, wire, turn).run)
    results = loop.join()
    for site in sites:
        assert state_digest(site.join().tensors) == stepped(federation, results["participants"])
    assert results["participants"][1] == [1, 2, 3]
    wire.server = None
    alone = site_of(federation, 1, tmp_path / "alone", wire)
    alone._settings = replace(alone._settings, give_up=0.3)
    with pytest.raises(NetworkError, match="out of reach for"):
        alone.run()
