"""Rounds whose clients are reached by NVFlare's tasks: the adapter of one machine, whatever a site does."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from short_runs import CONFIGS, SHORT
from sites import Started, Wire, events, locked, server_of
from waiting import LONG, Clock, wait_until

from fs_fedmllm import config as schema
from fs_fedmllm.distributed.attendance import Stopped
from fs_fedmllm.distributed.contracts import FrameLimits
from fs_fedmllm.distributed.identity import Identity
from fs_fedmllm.distributed.messages import Message
from fs_fedmllm.distributed.protocol import TurnedAwayError
from fs_fedmllm.distributed.server import RoundServer
from fs_fedmllm.privacy import central
from fs_fedmllm.rounds.federation import Federation
from fs_fedmllm.runs.session import Session
from fs_fedmllm.runs.simulation import run
from fs_fedmllm.scenarios.federated_data import FederatedData, prepare_data
from fs_fedmllm.version import VERSION

pytest.importorskip("nvflare", reason="NOT RUN: the extra nvflare is not installed")

from nvflare_sites import Sites, Work

from fs_fedmllm.hosts.nvflare.dispatch import Dispatch
from fs_fedmllm.hosts.nvflare.site import Site, SiteClient

WORDS = [*SHORT, "federate.total_round_num", "3", "federate.client_num", "3", "federate.sample_client_num", "3",
         "eval.freq", "3", "fedmllm.eval.limit", "4", "data.splitter_args", "[{alpha: 5.0}]"]  # fmt: skip
SITES = {"site-1": [1, 3], "site-2": [2]}
#: Algorithms of which each has something of its own on the way.
RUNS = {
    "fedavg": [],
    "fedyogi_adaptive": ["federate.method", "fedyogi", "fedmllm.regularizer.type", "adaptive"],
    "fedyogi_fedprox": ["federate.method", "fedyogi", "fedmllm.regularizer.type", "fedprox"],
    "scaffold": ["federate.method", "scaffold"],
    "compressed": ["fedmllm.compression.upload", "int8"],
    "dp": ["fedmllm.privacy.dp.noise_multiplier", "1.0", "fedmllm.privacy.dp.clip_norm", "0.1",
           "fedmllm.privacy.dp.delta", "0.01"],
    "secure": ["fedmllm.privacy.secure_aggregation.enabled", "True"],
}  # fmt: skip
#: Exchanges of a round in which a client is asked for something.
PHASES = {"secure": 4}


def federation_of(config: schema.Config) -> Federation:
    """The pieces, as every site and the server have them: one model behind a lock."""
    made = locked(Federation.build(config, prepare_data(config)))
    made.config = replace(config, federate=replace(config.federate, mode="distributed"))
    return made


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Federation, dict[str, Any]]:
    """A federation of three clients, and the results of its embedded run."""
    words = [*WORDS, "outdir", str(tmp_path_factory.mktemp("embedded"))]
    config = schema.load(CONFIGS / "aligned_a50.yaml", words)
    embedded, _ = run(config)
    return federation_of(config), embedded


def site(federation: Federation, clients: Sequence[int], folder: Path) -> Site:
    """A site with these clients, over the shared model."""
    whole = federation.data
    own = {}
    for client in clients:
        data = FederatedData(whole.dataset, whole.template, {client: whole.clients[client]}, whole.manifest)
        place = folder / f"client_{client}"
        place.mkdir(parents=True, exist_ok=True)
        own[client] = SiteClient.of(federation.config, client, data, place, federation, Identity.plaintext(client))
    return Site(federation.config, own, federation)


def works(federation: Federation, folder: Path) -> dict[str, Work]:
    """What every site does, honestly."""
    return {name: site(federation, clients, folder).answer for name, clients in SITES.items()}


@contextmanager
def dispatched(
    server: RoundServer,
    sites: Mapping[str, Work],
    clients: Mapping[str, Sequence[int]] = SITES,
    there: Collection[str] | None = None,
    come: Mapping[str, threading.Event] | None = None,
    foreign: Mapping[str, str] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[tuple[Dispatch, Sites]]:
    """Tasks go from the server to the sites, for the length of a block."""
    carrier, found = Sites(sites, come or {}), {} if foreign is None else foreign
    dispatch = Dispatch(server.desk, clients, carrier, FrameLimits(), server.settings, there, lambda: found, clock)
    thread = threading.Thread(target=dispatch.run, daemon=True)
    thread.start()
    try:
        yield dispatch, carrier
    finally:
        dispatch.end()
        thread.join(LONG)
    assert not thread.is_alive()


@pytest.fixture
def wire() -> Iterator[Wire]:
    """Holds the server, so that one which a test leaves behind is ended."""
    made = Wire()
    yield made
    made.end()


def after(work: Work, change: Callable[[Message, Message], Message]) -> Work:
    """A site whose answers to tasks of a round are something else."""

    def changed(message: Message) -> Message:
        answer = work(message)
        return change(message, answer) if message.kind == "task" else answer

    return changed


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in ("fedyogi_fedprox", "dp") else n for n in RUNS]
)
def test_the_adapter_is_that_of_one_machine(
    name: str, shared: Any, wire: Wire, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(central, "add_noise", lambda mean, *rest: mean)  # it is no function of the seed
    if name == "fedavg":
        federation, embedded = shared
    else:
        # The second round is the first that reads what an algorithm keeps.
        words = [*WORDS, *RUNS[name], "federate.total_round_num", "2", "eval.freq", "2"]
        config = schema.load(CONFIGS / "aligned_a50.yaml", [*words, "outdir", str(tmp_path / "e")])
        embedded, federation = run(config)[0], federation_of(config)
    server = server_of(federation, tmp_path / "server", wire)
    with dispatched(server, works(federation, tmp_path)) as (dispatch, carrier):
        results = server.run()
    assert results["adapter_sha256"] == embedded["adapter_sha256"]
    assert results["refused"] == []
    assert results["evaluations"] == embedded["evaluations"]
    kinds = [message.kind for _, message in carrier.given]
    tasks = 3 * results["rounds"] * PHASES.get(name, 1)
    assert (kinds.count("join"), kinds.count("task"), kinds.count("finish")) == (2, tasks, 3)
    assert results["rounds"] == (3 if name == "fedavg" else 2)
    assert dispatch.sent > dispatch.received > 0
    for client in (1, 2, 3):
        assert (tmp_path / f"client_{client}" / "adapter" / "adapter_model.safetensors").is_file()
        assert not list((tmp_path / f"client_{client}" / "state").glob("*"))


def test_updates_that_come_early_wait_on_disk(shared: Any, wire: Wire, tmp_path: Path) -> None:
    """Client 1 is last in every round; what the others sent is not in the server's memory meanwhile."""
    federation, embedded = shared
    server, seen = server_of(federation, tmp_path / "server", wire), []
    sites = {f"site-{client}": site(federation, [client], tmp_path).answer for client in (1, 2, 3)}

    def last(message: Message) -> Message:
        if message.kind == "task":
            wait_until(lambda: server.desk.opened is not None and server.desk.opened.answered == {2, 3})
            seen.append(len(list((tmp_path / "server" / "arrived").glob("client-*.safetensors"))))
        return first(message)

    first = sites["site-1"]
    with dispatched(server, {**sites, "site-1": last}, {name: [int(name[-1])] for name in sites}):
        results = server.run()
    assert seen == [2, 2, 2]
    assert results["adapter_sha256"] == embedded["adapter_sha256"]
    assert not (tmp_path / "server" / "arrived").exists()


def test_updates_that_come_faster_than_they_are_added_up_wait_on_disk(
    shared: Any, wire: Wire, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They come in ascending order while the first one is added up: one of them may be in memory, the next one."""
    federation, embedded = shared
    server, seen, adding = server_of(federation, tmp_path / "server", wire), [], threading.Event()
    sites = {f"site-{client}": site(federation, [client], tmp_path).answer for client in (1, 2, 3)}
    take = Session.take

    def answered(*clients: int) -> bool:
        return server.desk.opened is not None and server.desk.opened.answered == set(clients)

    def slowly(session: Session, update: Any) -> bool:
        if update.client == 1:
            adding.set()
            wait_until(lambda: answered(1, 2, 3))
            seen.append([path.name[:8] for path in (tmp_path / "server" / "arrived").glob("client-*.safetensors")])
            adding.clear()
        return take(session, update)

    def after(name: str, come: Callable[[], bool]) -> Callable[[Message], Message]:
        first = sites[name]

        def late(message: Message) -> Message:
            if message.kind == "task":
                wait_until(come)
            return first(message)

        return late

    monkeypatch.setattr(Session, "take", slowly)
    in_order = {"site-2": after("site-2", adding.is_set), "site-3": after("site-3", lambda: answered(1, 2))}
    with dispatched(server, {**sites, **in_order}, {name: [int(name[-1])] for name in sites}):
        results = server.run()
    assert seen == [["client-3"]] * 3
    assert results["adapter_sha256"] == embedded["adapter_sha256"]


def test_a_dropout_of_a_secure_round_is_left_out_of_its_sum(wire: Wire, tmp_path: Path) -> None:
    """Client 2 is gone before it has sent its masked update of round 1; the sum is that of the other two."""
    words = [*WORDS, *RUNS["secure"]]
    config = schema.load(CONFIGS / "aligned_a50.yaml", [*words, "outdir", str(tmp_path / "exp")])
    federation = federation_of(config)
    server = server_of(federation, tmp_path / "server", wire)

    def gone(task: Message, answer: Message) -> Message:
        if task.header["phase"] == "secure_turn" and task.header["round"] == 1:
            return Message("failed", {"failed": "the site's training process ended"})
        return answer

    sites = works(federation, tmp_path)
    with dispatched(server, {**sites, "site-2": after(sites["site-2"], gone)}):
        results = server.run()
    assert results["participants"] == [[1, 2, 3], [1, 3], [1, 2, 3]]
    assert [(entry["round"], entry["client"]) for entry in results["refused"]] == [(1, 2)]
    replayed = ["fedmllm.replay", str(tmp_path / "server" / "results.json")]
    plain, _ = run(schema.load(CONFIGS / "aligned_a50.yaml", [*WORDS, *replayed, "outdir", str(tmp_path / "plain")]))
    # A sum in fixed point is rounded otherwise than one in float32.
    for one, other in zip(results["evaluations"], plain["evaluations"], strict=True):
        assert one["val_loss"] == pytest.approx(other["val_loss"], rel=1e-4)


#: What a site may answer in place of an update, one a round, and what is then said of it (None: nothing is wrong).
WRONG: list[tuple[Callable[[Message], Message], str | None]] = [
    (lambda answer: Message("failed", {"failed": "it has no more memory"}), "no more memory"),
    (lambda answer: Message("answer", {}, {}), "something else than it was asked for"),
    (lambda answer: replace(answer, header={**answer.header, "round": 77}), "something else"),
    (lambda answer: replace(answer, tensors={"no": torch.ones(1)}), "'no' is not expected"),
    (lambda answer: replace(answer, tensors={n: t.double() for n, t in answer.tensors.items()}), "float64"),
    (lambda answer: replace(answer, tensors={n: t * torch.nan for n, t in answer.tensors.items()}), "not finite"),
    (lambda answer: replace(answer, header={**answer.header, "rows": 9999}), "now reports 9999"),
    (lambda answer: replace(answer, header={**answer.header, "client": 1}), None),  # the certificate says who it is
]


def test_an_answer_that_is_none_is_refused_by_name_and_the_run_goes_on(
    shared: Any, wire: Wire, tmp_path: Path
) -> None:
    federation, _ = shared
    config = federation.config
    federation.config = replace(config, federate=replace(config.federate, total_round_num=len(WRONG)))
    try:
        server = server_of(federation, tmp_path / "server", wire)
        sites = works(federation, tmp_path)
        wrong = after(sites["site-2"], lambda task, answer: WRONG[task.header["round"]][0](answer))
        with dispatched(server, {**sites, "site-2": wrong}):
            results = server.run()
    finally:
        federation.config = config
    assert results["participants"] == [[1, 3] if says else [1, 2, 3] for _, says in WRONG]
    refused = {entry["round"]: entry["reason"] for entry in results["refused"]}
    assert {entry["client"] for entry in results["refused"]} == {2}
    assert list(refused) == [index for index, (_, says) in enumerate(WRONG) if says]
    for index, reason in refused.items():
        assert (WRONG[index][1] or "") in reason


def test_a_site_that_is_another_runs_takes_no_part(shared: Any, wire: Wire, tmp_path: Path) -> None:
    federation, _ = shared
    server = server_of(federation, tmp_path / "server", wire, Clock(), min_clients=2)  # nobody waits: the clock stands
    sites = works(federation, tmp_path)
    with dispatched(server, {**sites, "site-2": joins_with(sites["site-2"], agreed={"seed": 99})}):
        results = server.run()
    assert results["participants"] == [[1, 3]] * 3
    said = server.status()["clients"][1]["why"]
    assert said.startswith("was refused: site-2 takes no part: Client 2 has another configuration: ")
    assert "fs-fedmllm doctor --nvflare KIT says more" in said
    assert [event["reason"] for event in events(tmp_path / "server", "refused")] == ["config"]  # told once


def joins_with(work: Work, **other: Any) -> Work:
    """A site whose client 2 says something else of itself when it joins, and that it is client 1, too."""

    def joins(message: Message) -> Message:
        answer = work(message)
        if message.kind == "join":
            own = {**answer.header["clients"]["2"], **other}
            return Message(answer.kind, {"clients": {"2": own, "1": own}})
        return answer

    return joins


@pytest.mark.parametrize(
    ("work", "says"),
    [
        (lambda work: joins_with(work, version="0.0.9"),
         f"Client 2 has version '0.0.9' of fs-fedmllm, and the server {VERSION!r}. Install the same version on every"),
        (lambda work: joins_with(work, version=""), "Client 2 has version that does not say its number"),
        (lambda work: joins_with(work, base="5" * 64), "The base weights of client"),
        (lambda work: lambda message: Message("failed", {"failed": "data.root is the server's folder"}),
         "site-2 takes no part: data.root is the server's folder. Correct that there"),
        (lambda work: lambda message: Message("introduced", {"clients": {}}), "it does not have client 2. Correct"),
        (None, "site-2 takes no part: it was not connected when NVFlare began the job. Start NVFlare there"),
    ],
    ids=["version", "no version", "base", "failed", "not there", "not connected"],
)  # fmt: skip
def test_a_wrong_site_is_named_and_a_run_without_a_quorum_ends_at_once(
    work: Callable[[Work], Work] | None, says: str, shared: Any, wire: Wire, tmp_path: Path
) -> None:
    """All three clients are wanted, of which one site cannot have its own; the clock stands."""
    federation, _ = shared
    server = server_of(federation, tmp_path / "server", wire, Clock(), min_clients=3)
    sites = works(federation, tmp_path)
    site_1 = sites["site-1"] if work else lambda message: Message("failed", {"failed": "its rows are wrong"})
    site_2 = work(sites["site-2"]) if work else sites["site-2"]
    there = SITES if work else ["site-1"]
    with (
        dispatched(server, {"site-1": site_1, "site-2": site_2}, there=there) as (_, carrier),
        pytest.raises(TurnedAwayError, match=r"^Round 0 needs 3 of 3 clients, and \d do not take part\. ") as caught,
    ):
        server.run()
    assert says in str(caught.value)
    assert [name for name, _ in carrier.given] == list(there)  # a site that is not there is asked nothing


@pytest.mark.parametrize("wrong", ["does not come", "does not answer", "shows another's certificate"])
def test_a_site_that_does_not_join_ends_a_run_without_a_quorum(
    wrong: str, shared: Any, wire: Wire, tmp_path: Path
) -> None:
    """The server's own clock stands."""
    federation, _ = shared
    server = server_of(
        federation, tmp_path / "server", wire, Clock(), min_clients=3, begin_timeout=30, join_timeout=70
    )
    sites, clock, come, go, asked = works(federation, tmp_path), Clock(), *(threading.Event() for _ in range(3))

    def hangs(message: Message) -> Message:
        asked.set()
        assert go.wait(LONG)
        return honest(message)

    honest = sites["site-2"]
    foreign: dict[str, str] = {}
    if wrong == "does not answer":
        come.set()
    try:
        with dispatched(server, {**sites, "site-2": hangs}, come={"site-2": come}, foreign=foreign, clock=clock) as (
            _,
            carrier,
        ):
            started = Started(server.run)
            wait_until(lambda: server.desk.is_there(1) and len(carrier.given) == 2)
            if wrong == "does not come":
                clock.advance(30)
                says = "NVFlare has given it the job, and for 30 seconds its process has not asked for a task. log.txt"
            elif wrong == "does not answer":
                assert asked.wait(LONG)
                clock.advance(60)  # it has begun: the shorter time does not count any more
                wait_until(lambda: server.status()["doing"] == "waiting for clients")
                clock.advance(10)
                says = "asked for its first task, and for 70 seconds has not answered. The run.log of its client"
            else:
                foreign["site-2"] = "site-1"
                clock.advance(30)
                says = "A process that calls itself site-2 shows the certificate of 'site-1', so NVFlare takes nothing"
            with pytest.raises(TurnedAwayError, match=r"^Round 0 needs 3 of 3 clients, and 1 do not take") as caught:
                started.join()
            assert says in str(caught.value)
    finally:
        for event in (come, go):
            event.set()


def test_a_site_that_begins_late_is_left_behind_and_joins_when_it_comes(
    shared: Any, wire: Wire, tmp_path: Path
) -> None:
    federation, _ = shared
    server = server_of(federation, tmp_path / "server", wire, Clock(), min_clients=2, begin_timeout=30)
    sites, clock, come = works(federation, tmp_path), Clock(), threading.Event()

    def until_there(message: Message) -> Message:
        if message.kind == "task" and message.header["round"] == 1 and message.header["client"] == 3:
            assert "site-2 takes no part: NVFlare has given it the job" in server.status()["clients"][1]["why"]
            come.set()
            wait_until(lambda: server.desk.is_there(2))
        return first(message)

    first = sites["site-1"]
    claimed = {"site-1": "site-2"}  # site-2 has called itself site-1, to keep that away; it has joined
    with dispatched(server, {**sites, "site-1": until_there}, come={"site-2": come}, foreign=claimed, clock=clock) as (
        _,
        carrier,
    ):
        started = Started(server.run)
        wait_until(lambda: server.desk.is_there(1) and len(carrier.given) == 2)
        clock.advance(30)
        results = started.join()
    assert results["participants"] == [[1, 3], [1, 3], [1, 2, 3]]


def test_a_site_that_misses_its_deadline_is_asked_again_and_comes_back(
    shared: Any, wire: Wire, tmp_path: Path
) -> None:
    federation, _ = shared
    clock, hold, held = Clock(), threading.Event(), threading.Event()
    server = server_of(federation, tmp_path / "server", wire, clock, turn_timeout=10.0, min_clients=2)
    sites = works(federation, tmp_path)

    def slow(message: Message) -> Message:
        if message.kind == "task" and message.header["round"] == 0:
            held.set()
            assert hold.wait(LONG)
        return honest(message)

    def lets_go(message: Message) -> Message:
        if message.kind == "task" and message.header["round"] == 1 and message.header["client"] == 3:
            hold.set()  # in the middle of round 1, which goes on without it
            wait_until(lambda: server.desk.is_there(2))
        return first(message)

    honest, first = sites["site-2"], sites["site-1"]
    with dispatched(server, {"site-1": lets_go, "site-2": slow}):
        started = Started(server.run)
        assert held.wait(LONG)
        wait_until(lambda: server.desk.opened is not None and server.desk.opened.answered == {1, 3})
        clock.advance(11)
        results = started.join()
    assert results["participants"] == [[1, 3], [1, 3], [1, 2, 3]]


def test_rounds_do_not_wait_for_a_site_that_nvflare_says_is_gone(shared: Any, wire: Wire, tmp_path: Path) -> None:
    """No deadline passes in this test: the clock stands."""
    federation, _ = shared
    server = server_of(federation, tmp_path / "server", wire, Clock(), turn_timeout=10.0, min_clients=2)
    sites, gone, go = works(federation, tmp_path), threading.Event(), threading.Event()

    def silent(message: Message) -> Message:
        if message.kind == "task" and message.header["round"] == 0:
            gone.set()
            assert go.wait(LONG)  # its answer comes when that is over
        return honest(message)

    def until_back(message: Message) -> Message:
        if message.kind == "task" and message.header["round"] == 1 and message.header["client"] == 3:
            go.set()
            dispatch.found("site-2")
            wait_until(lambda: server.desk.is_there(2))
        return first(message)

    honest, first = sites["site-2"], sites["site-1"]
    with dispatched(server, {"site-1": until_back, "site-2": silent}) as (dispatch, _):
        started = Started(server.run)
        assert gone.wait(LONG)
        dispatch.lost("site-2")
        results = started.join()
    assert results["participants"] == [[1, 3], [1, 3], [1, 2, 3]]
    assert [entry["reason"] for entry in results["refused"]] == ["client 2: its site is gone"]


def test_a_server_that_comes_back_takes_the_answers_that_sites_hold(shared: Any, wire: Wire, tmp_path: Path) -> None:
    """The job breaks off when all have trained and none was taken; submitted again, nobody trains twice."""
    federation, embedded = shared
    server = server_of(federation, tmp_path / "server", wire)
    sites, lost, ended = works(federation, tmp_path), threading.Event(), threading.Event()

    def breaks_off(work: Work) -> Work:
        def until(message: Message) -> Message:
            answer = work(message)
            if message.kind == "task" and message.header["round"] == 1:
                server.stop()
                lost.set()
                assert ended.wait(LONG)
            return answer

        return until

    with dispatched(server, {name: breaks_off(work) for name, work in sites.items()}):
        with pytest.raises(Stopped):
            server.run()
        ended.set()
    assert lost.is_set() and server.session.state.round == 1
    again = server_of(federation, tmp_path / "server", wire)
    with dispatched(again, works(federation, tmp_path)) as (_, carrier):
        results = again.run()
    assert results["adapter_sha256"] == embedded["adapter_sha256"]
    assert any(message.header.get("held") for _, message in carrier.given if message.kind == "task")
