"""Asynchronous runs: the synchronous one's bytes where they must be, resume, what is dropped, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from short_runs import CONFIGS, SHORT

from fs_fedmllm import config as schema
from fs_fedmllm.cli import main
from fs_fedmllm.config.asynchronous import APART
from fs_fedmllm.errors import ConfigError, UpdateError
from fs_fedmllm.files.sealing import sealed
from fs_fedmllm.rounds.client import ClientSide
from fs_fedmllm.rounds.federation import Federation
from fs_fedmllm.rounds.in_flight import planned_rounds
from fs_fedmllm.runs.checkpoint import load_checkpoint
from fs_fedmllm.runs.console import closing_table
from fs_fedmllm.runs.listener import Listener
from fs_fedmllm.runs.simulation import run
from fs_fedmllm.scenarios.federated_data import prepare_data
from fs_fedmllm.tools.planner.plan import make_plan
from fs_fedmllm.tools.planner.show import table

Make = Callable[..., schema.Config]
A = "fedmllm.async."
#: Three clients, one step each, at speeds whose order of events tests/training/test_in_flight.py has by hand.
THREE = ("federate.client_num", 3, "federate.sample_client_num", 3, "train.local_update_steps", 1,
         "train.optimizer.lr", 1.0e-3, "data.splitter_args", "[{alpha: 50.0}]")  # fmt: skip
BUFFERED = (*THREE, f"{A}buffer", 2, f"{A}seconds", "[1, 2, 3]", "federate.total_round_num", 5)


@pytest.mark.parametrize("seconds", ["[]", "[3, 1, 2]"])
def test_a_buffer_of_all_clients_is_the_synchronous_run_to_the_byte(short_config: Make, seconds: str) -> None:
    """At any speeds, as every client trains at once."""
    words = (*THREE, "federate.method", "fedyogi")
    plain, _ = run(short_config("aligned_a05", *words))
    buffered, _ = run(short_config("aligned_a05", *words, f"{A}buffer", 3, f"{A}seconds", seconds))
    for name in ("adapter_sha256", "participants", "evaluations", "bytes_sent"):
        assert buffered[name] == plain[name], name
    assert "async" not in plain and buffered["async"]["staleness"] == {"0": 6}


def test_a_buffer_of_all_that_are_drawn_is_the_synchronous_run_at_equal_speeds(short_config: Make) -> None:
    words = ("federate.sample_client_num", 3, "fedmllm.compression.upload", "int8", "train.local_update_steps", 1)
    plain, _ = run(short_config("cross_i3t7", *words, "fedmllm.sampler", "modality"))
    buffered, _ = run(short_config("cross_i3t7", *words, "fedmllm.sampler", "modality", f"{A}buffer", 3))
    for name in ("adapter_sha256", "participants", "evaluations", "bytes_sent"):
        assert buffered[name] == plain[name], name


class Keeps(Listener):
    """Every round's adapter."""

    def __init__(self) -> None:
        self.versions: list[dict[str, torch.Tensor]] = []

    def round_ended(self, state: Any, figures: dict[str, Any]) -> None:
        self.versions.append(state.params)


def test_every_step_of_a_run_is_the_formula_over_the_schedule_by_hand(short_config: Make) -> None:
    """Every client trains from the version that it was sent; the formula in float64."""
    config = short_config("aligned_a05", *BUFFERED)
    keeps = Keeps()
    results, folder = run(config, listener=keeps)
    schedule = [[(1, 0), (2, 0)], [(1, 1), (3, 0)], [(1, 2), (2, 1)], [(1, 3), (2, 3)], [(1, 4), (3, 2)]]
    federation = Federation.build(config, prepare_data(config))
    versions = [federation.initial_state(), *keeps.versions]
    for index, jobs in enumerate(schedule):
        updates = [(federation.clients.update(c, v, versions[v]), v) for c, v in jobs]
        rows = sum(update.rows for update, _ in updates)
        for name, old in versions[index].items():
            step = torch.zeros_like(old, dtype=torch.float64)
            for update, v in updates:
                delta = update.state[name].double() - versions[v][name].double()
                step += update.rows / rows * (1 + index - v) ** -0.5 * delta
            assert float((versions[index + 1][name].double() - old.double() - step).abs().max()) < 1e-7
    moved = max(float((versions[-1][name] - versions[0][name]).abs().max()) for name in versions[0])
    assert moved > 1e-3
    assert results["participants"] == [[1, 2], [1, 3], [1, 2], [1, 2], [1, 3]]
    told = results["async"]
    assert told["clocks"] == [2.0, 3.0, 4.0, 6.0, 7.0] and told["clock"] == 7.0
    assert told["staleness"] == {"0": 7, "1": 2, "2": 1} and told["dropped"] == {}
    assert "7 virtual seconds, 2 updates a round; staleness 0 (7), 1 (2), 2 (1)" in closing_table(results, "x")
    lines = [json.loads(line) for line in (folder.path / "metrics.jsonl").read_text().splitlines()]
    assert [line["staleness"] for line in lines if line["kind"] == "turn"] == [0, 0, 0, 1, 0, 1, 0, 0, 0, 2]
    assert [line["clock"] for line in lines if line["kind"] == "round"] == told["clocks"]


class Stopped(Exception):
    """In the place of a kill."""


class Stops(Listener):
    """Ends the process's run in a round, after ``updates`` of its updates were taken."""

    def __init__(self, rounds: int, updates: int = 0):
        self.rounds, self.updates = rounds, updates

    def trained(self, round_index: int, update: Any) -> None:
        if round_index == self.rounds:
            self.updates -= 1
            if self.updates == 0:
                raise Stopped

    def round_ended(self, state: Any, figures: dict[str, Any]) -> None:
        if state.round > self.rounds:
            raise Stopped


def test_a_run_stopped_in_every_round_ends_with_the_bytes_of_the_whole_one(short_config: Make) -> None:
    """Momentum, remainders of compression, a client that is dropped for its age, and a trace."""
    words = (*THREE, f"{A}buffer", 2, f"{A}seconds", "[1, [2, 1], 4]", f"{A}max_staleness", 2, "eval.freq", 3,
             "federate.total_round_num", 7, "federate.method", "fedavgm", "fedmllm.compression.upload", "int8",
             "fedmllm.compression.download", "bfloat16")  # fmt: skip
    whole, whole_folder = run(short_config("aligned_a05", *words, "expname", "whole"))
    config = short_config("aligned_a05", *words, "expname", "stopped")
    folder = Path(config.outdir) / "stopped"
    kept = set()
    for index in range(7):
        for updates in (
            1,
            0,
        ):  # within the round, the first of a process or not; after its step, before its checkpoint
            with pytest.raises(Stopped):
                run(config, listener=Stops(index, updates))
        kept |= {path.name for path in (folder / "checkpoint").glob("sent-round-*")}
    assert kept
    results, _ = run(config)
    for name in ("adapter_sha256", "participants", "evaluations", "bytes_sent", "refused", "async", "best"):
        assert results[name] == whole[name], name
    assert sum(whole["async"]["dropped"].values()) > 0

    def told(path: Path) -> list[dict]:
        lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
        return [{name: value for name, value in line.items() if not name.endswith("seconds")} for line in lines]

    assert told(folder) == told(whole_folder.path)


def test_what_is_too_old_is_dropped_counted_and_said(short_config: Make, monkeypatch, caplog) -> None:
    computed = []
    attempt = ClientSide.attempt
    monkeypatch.setattr(
        ClientSide, "attempt", lambda self, client, *rest: computed.append(client) or attempt(self, client, *rest)
    )
    words = (*THREE, f"{A}buffer", 1, f"{A}seconds", "[1, 1, 2.5]", f"{A}max_staleness", 1,
             "federate.total_round_num", 6)  # fmt: skip
    config = short_config("aligned_a05", *words)
    plan = make_plan(config)
    results, folder = run(config)
    assert results["async"]["dropped"] == {"3": 1} and 3 not in computed and len(computed) == 6
    (entry,) = results["refused"]
    assert entry["client"] == 3 and "above fedmllm.async.max_staleness 1" in entry["reason"]
    assert any("its update of round 0 is" in record.message for record in caplog.records)
    assert "1 updates were too old and dropped (client 3: 1)" in closing_table(results, "x")
    # What was dropped was sent all the same; and the plan knew.
    assert plan.traffic["run_bytes"] == results["bytes_sent"]
    assert plan.work["async"]["dropped"] == 1 and plan.work["async"]["virtual_seconds"] == results["async"]["clock"]
    assert "asynchronous" in table(plan)
    lines = [json.loads(line) for line in (folder.path / "metrics.jsonl").read_text().splitlines()]
    assert sum(line["dropped"] for line in lines if line["kind"] == "round") == 1
    assert plan.work["turns"] == sum(line["kind"] == "turn" for line in lines)


def test_a_refused_update_leaves_its_place_to_the_next(short_config: Make, monkeypatch) -> None:
    update = ClientSide.update

    def spoilt(self, client: int, round_index: int, *rest):
        if client == 1:
            raise UpdateError("the loss is not finite")
        return update(self, client, round_index, *rest)

    monkeypatch.setattr(ClientSide, "update", spoilt)
    results, _ = run(short_config("aligned_a05", *BUFFERED, "federate.total_round_num", 2))
    assert results["participants"] == [[2, 3], [2, 3]]
    assert [(entry["round"], entry["client"]) for entry in results["refused"]] == [(0, 1), (1, 1)]
    assert results["async"]["clocks"] == [3.0, 6.0]
    monkeypatch.setattr(ClientSide, "update", lambda *_: (_ for _ in ()).throw(UpdateError("no")))
    with pytest.raises(UpdateError, match="No client sent a valid update"):
        run(short_config("aligned_a05", *BUFFERED))


def test_updates_side_by_side_give_the_same_bytes(short_config: Make, forks, tmp_path: Path) -> None:
    """Two processes, each with versions of its own to start from."""
    words = [*SHORT, *map(str, BUFFERED), "outdir", str(tmp_path), "expname", "two", "fedmllm.workers", "2"]
    command = ["-m", "fs_fedmllm", "run", CONFIGS / "aligned_a05.yaml", "--engine", "embedded", *words]
    done = forks.run(command, tmp_path, os.environ)
    assert done.returncode == 0, done.stderr[-2000:]
    two = json.loads((tmp_path / "two" / "results.json").read_text())
    one, _ = run(short_config("aligned_a05", *BUFFERED))
    for name in ("adapter_sha256", "participants", "async", "bytes_sent"):
        assert two[name] == one[name], name


#: A setting for each entry of the declaration.
SET = {
    "federate.mode": ("federate.mode", "distributed"),
    "federate.method": ("federate.method", "scaffold"),
    "fedmllm.privacy.secure_aggregation.enabled": ("fedmllm.privacy.secure_aggregation.enabled", "True"),
    "fedmllm.privacy.dp.clip_norm": (
        *("fedmllm.privacy.dp.clip_norm", "1.0", "fedmllm.privacy.dp.noise_multiplier", "1.0"),
    ),
    "fedmllm.replay": ("fedmllm.replay", "results.json"),
    "fedmllm.aggregation.rule": ("fedmllm.aggregation.rule", "median"),
    "fedmllm.aggregation.lora": ("fedmllm.aggregation.lora", "exact"),
    "fedmllm.aggregation.outlier_factor": ("fedmllm.aggregation.outlier_factor", "3.0"),
    "fedmllm.aggregation.client_weights": ("fedmllm.aggregation.client_weights", "balanced"),
    "fedmllm.switches.client_sampling": ("fedmllm.switches.client_sampling", "round_seed"),
    "fedmllm.network.min_clients": ("fedmllm.network.min_clients", "2"),
    "fedmllm.network.turn_timeout": ("fedmllm.network.turn_timeout", "5"),
}


@pytest.mark.parametrize("apart", APART, ids=lambda apart: apart.key)
def test_what_it_excludes_is_refused_by_name_and_alone_is_not(short_config: Make, apart) -> None:
    words = ("federate.sample_client_num", 3, *SET[apart.key])
    assert apart.found(short_config("cross_i3t7")) is None
    with pytest.raises(ConfigError) as refused:
        short_config("cross_i3t7", f"{A}buffer", 2, *words)
    assert str(refused.value).count(apart.key) >= 1 and "fedmllm.async.buffer is 2" in str(refused.value)
    short_config("cross_i3t7", *words)


@pytest.mark.parametrize("method", ["feddyn", "local", "global"])
def test_methods_that_it_excludes(short_config: Make, method: str) -> None:
    with pytest.raises(ConfigError, match=f"fedmllm.async.buffer is 1, and federate.method {method}"):
        short_config("cross_i3t7", "federate.method", method, f"{A}buffer", 1)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((f"{A}buffer", 4, "federate.sample_client_num", 3), "buffer is 4, and 3 clients train at once"),
        ((f"{A}buffer", 2, f"{A}seconds", "[1, 2]"), "seconds has 2 entries; it needs one for each of the 10"),
        ((f"{A}buffer", 2, f"{A}seconds", "[1, 2, 3, 4, 5, 6, 7, 8, 9, 0]"), "gives client 10 0"),
        ((f"{A}buffer", 2, f"{A}seconds", "[1, 2, 3, 4, 5, 6, 7, 8, 9, []]"), r"gives client 10 \[\]"),
        ((f"{A}buffer", 2, f"{A}seconds", "[1, 2, 3, 4, 5, 6, 7, 8, 9, .inf]"), "gives client 10 inf"),
        ((f"{A}buffer", 2, f"{A}seconds", "[1, 2, 3, 4, 5, 6, 7, 8, 9, [1, x]]"), "gives client 10"),
        ((f"{A}max_staleness", 3), "max_staleness is set, and fedmllm.async.buffer is 0"),
        ((f"{A}buffer", 2, f"{A}weight", "constant", f"{A}exponent", 1), "exponent is read by .*weight polynomial"),
        ((f"{A}buffer", -1), "fedmllm.async.buffer is -1; it must be at least 0"),
        ((f"{A}weight", "linear"), "fedmllm.async.weight is 'linear', which is not one of constant, polynomial"),
        (("fedmllm.async_.buffer", 2), "unknown key 'fedmllm.async_'; did you mean 'fedmllm.async'"),
        (("asyn.use", "True"), "in simulation set fedmllm.async.buffer"),
    ],
)
def test_what_cannot_be_meant_is_refused(short_config: Make, words: tuple, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        short_config("cross_i3t7", "federate.sample_client_num", 3, *words)


def test_the_key_is_written_as_it_is_read(short_config: Make) -> None:
    config = short_config("cross_i3t7", f"{A}buffer", 2, f"{A}seconds", "[1, 2, 3, 4, 5, 6, 7, 8, 9, [1, 5]]")
    written = schema.to_mapping(config)["fedmllm"]["async"]
    assert written["buffer"] == 2 and schema.from_mapping(schema.to_mapping(config)) == config
    assert schema.settings(config)["fedmllm.async.buffer"] == 2
    assert schema.config_digest(config) != schema.config_digest(short_config("cross_i3t7"))
    assert "fedmllm.async.buffer" in schema.known_keys() and schema.key_facts()["fedmllm.async.buffer"].numbers


def test_engines_that_wait_for_a_round_refuse_it_by_name(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    preset = str(CONFIGS / "cross_i3t7.yaml")
    for words in (
        ["run", preset, "--engine", "federatedscope"],
        ["run", preset, "--engine", "federatedscope", "--dry-run"],
        ["run", preset, "--engine", "nvflare"],
        ["server", preset],
    ):
        assert main([*words, f"{A}buffer", "2"]) == 2
        assert "fedmllm.async.buffer is 2" in capsys.readouterr().err


def test_a_dry_run_says_how_rounds_end(short_config: Make, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    words = [f"{A}buffer", "2", "federate.sample_client_num", "4"]
    assert main(["run", str(CONFIGS / "cross_i3t7.yaml"), "--engine", "embedded", "--dry-run", *words]) == 0
    assert "a step for 2 updates, 4 clients at once" in capsys.readouterr().out


def test_a_checkpoint_with_other_clients_in_flight_is_refused(short_config: Make, tmp_path: Path) -> None:
    config = short_config("aligned_a05", *BUFFERED, "expname", "spoilt")
    with pytest.raises(Stopped):
        run(config, listener=Stops(3, 1))
    folder = Path(config.outdir) / "spoilt" / "checkpoint"
    shutil.copytree(folder, tmp_path / "kept")
    head = folder / "state.json"
    whole = json.loads(head.read_text())
    told = whole["figures"]["async"]
    assert told["jobs"] and set(whole["versions"]) == {str(version) for _, _, version in told["jobs"]}

    def refused(changes: dict[str, Any], **figures: Any) -> str:
        shutil.copytree(tmp_path / "kept", folder, dirs_exist_ok=True)
        content = whole | {"figures": whole["figures"] | {"async": told | figures}} | changes
        head.write_bytes(sealed({name: value for name, value in content.items() if name != "digest"}))
        with pytest.raises(ConfigError) as error:
            run(config)
        return str(error.value)

    (finish, client, version), *rest = told["jobs"]
    assert "not those of the clients in flight" in refused({"versions": {}})
    for jobs in ([], [[finish, client, version - 1], *rest]):
        assert "not those of the clients in flight" in refused({}, jobs=jobs)
    assert "cannot have" in refused({}, jobs=[[finish, 4, version], *rest])
    assert "cannot have" in refused({}, jobs=[[finish, client, version]] * 2)
    assert "from another time" in refused({}, jobs=[[0.5, client, version], *rest])
    assert "from another time" in refused({}, jobs=[[finish, client, 7], *rest])
    assert "clock of 2 rounds" in refused({}, clocks=told["clocks"][:2])
    for bad in ({"clock": "x"}, {"jobs": [[1, 2]]}, {"dropped": {"x": 1}}, {"staleness": []}, {"clock": 10**400}):
        assert "does not say who is in flight" in refused({}, **bad)
    shutil.copytree(tmp_path / "kept", folder, dirs_exist_ok=True)
    results, _ = run(config)
    assert results["rounds"] == 5


def test_versions_are_kept_no_longer_than_somebody_may_use_them(short_config: Make) -> None:
    """One for all that have it; at most max_staleness earlier ones, whoever is in flight."""
    config = short_config(
        "aligned_a05", *BUFFERED, f"{A}buffer", 1, f"{A}seconds", "[1, 1, 50]", f"{A}max_staleness", 2
    )
    kept, storages = [], []

    class Looks(Listener):
        def round_ended(self, state: Any, figures: dict[str, Any]) -> None:
            kept.append(sorted(state.versions))
            tensors = [t for version in state.versions.values() for t in version.values()]
            storages.append(len({t.data_ptr() for t in tensors}) == len(tensors))

    run(config, listener=Looks())
    assert kept == [sorted(set(versions)) for versions in kept] and max(map(len, kept)) <= 2 and all(storages)
    assert [len(versions) for versions in kept] == [r.versions for r in planned_rounds(config, {})]


def test_off_a_checkpoint_is_what_it_was(short_config: Make) -> None:
    config = short_config("aligned_a05", *THREE, "expname", "plain", "federate.total_round_num", 3)
    with pytest.raises(Stopped):
        run(config, listener=Stops(1, 1))
    folder = Path(config.outdir) / "plain" / "checkpoint"
    head = json.loads((folder / "state.json").read_text())
    assert "versions" not in head and "async" not in head["figures"] and not list(folder.glob("sent-*"))
    saved = load_checkpoint(folder, head["config"])
    assert saved is not None and saved.versions == {} and torch.is_tensor(next(iter(saved.params.values())))
