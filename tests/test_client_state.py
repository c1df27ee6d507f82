"""What a client keeps between its turns: carried, checkpointed, and dropped with a refused update."""

from __future__ import annotations

import dataclasses
import json
import os

import pytest
import torch
from short_runs import CONFIGS, SHORT

from fs_fedmllm import config as schema
from fs_fedmllm.errors import ConfigError
from fs_fedmllm.rounds.client import ClientSide
from fs_fedmllm.rounds.client_update import ClientUpdate, FailedUpdate
from fs_fedmllm.rounds.federation import Federation
from fs_fedmllm.runs.checkpoint import RunState, load_checkpoint, remove_checkpoint, save_checkpoint
from fs_fedmllm.runs.listener import Listener
from fs_fedmllm.runs.run_folder import RunFolder
from fs_fedmllm.runs.session import Session
from fs_fedmllm.runs.simulation import run
from fs_fedmllm.scenarios.federated_data import prepare_data

TURN = ClientSide.update


def with_momentum(self, client, round_index, state, carried=None) -> ClientUpdate:
    """A turn whose result depends on the client's own past: it adds half of its last difference."""
    update = TURN(self, client, round_index, state)
    moved = {name: tensor - state[name] for name, tensor in update.state.items()}
    if carried:
        assert set(carried) == {f"test/{name}" for name in moved} | {"test/turns"}
        moved = {name: tensor + 0.5 * carried[f"test/{name}"] for name, tensor in moved.items()}
    turns = (carried or {}).get("test/turns", torch.zeros(1)) + 1
    kept = {f"test/{name}": tensor for name, tensor in moved.items()} | {"test/turns": turns}
    return dataclasses.replace(
        update, state={name: state[name] + tensor for name, tensor in moved.items()}, client_state=kept
    )


LONG = ("federate.client_num", 3, "federate.sample_client_num", 2, "federate.total_round_num", 4, "eval.freq", 4)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> str:
    """The adapter of a run that nothing ends early."""
    words = [*SHORT, *map(str, LONG), "outdir", str(tmp_path_factory.mktemp("exp"))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ClientSide, "update", with_momentum)
        return str(run(schema.load(CONFIGS / "aligned_a05.yaml", words))[0]["adapter_sha256"])


def test_without_what_they_keep_clients_train_another_adapter(short_config, monkeypatch, whole) -> None:
    monkeypatch.setattr(ClientSide, "update", lambda self, c, r, s, carried=None: with_momentum(self, c, r, s))
    forgetful, _ = run(short_config("aligned_a05", *LONG))
    assert forgetful["adapter_sha256"] != whole


@pytest.mark.parametrize("rounds_before", [1, 3])
def test_a_killed_run_with_client_state_resumes_to_the_same_bytes(
    short_config, monkeypatch, whole, rounds_before
) -> None:
    config = short_config("aligned_a05", *LONG, "expname", "killed")

    def dies(self, client, round_index, *rest):
        if round_index == rounds_before:
            raise KeyboardInterrupt
        return with_momentum(self, client, round_index, *rest)

    monkeypatch.setattr(ClientSide, "update", dies)
    with pytest.raises(KeyboardInterrupt):
        run(config)
    monkeypatch.setattr(ClientSide, "update", with_momentum)
    resumed, _ = run(config)
    assert resumed["adapter_sha256"] == whole


def test_a_refused_client_keeps_what_it_had(short_config, tmp_path) -> None:
    config = short_config("aligned_a05", *LONG)
    federation = Federation.build(config, prepare_data(config))
    session = Session(federation, RunFolder(tmp_path / "run", config), Listener())

    def update(client, value, mark):
        state = {name: tensor + value for name, tensor in session.state.params.items()}
        log = TURN(federation.clients, client, 0, session.state.params).log
        return ClientUpdate(client, 5, state, log, {"test/mark": torch.tensor([mark])})

    session.begin_round()
    assert session.take(update(1, 0.1, 1.0)) and session.take(update(2, 0.1, 2.0))
    assert 1 not in session.state.clients  # not before the round ends
    session.end_round(2)
    session.begin_round()
    session.take(update(1, 0.1, 3.0))
    assert not session.take(update(2, float("nan"), 4.0))
    session.end_round(2)
    kept = {client: float(session.state.clients[client]["test/mark"]) for client in (1, 2)}
    assert kept == {1: 3.0, 2: 2.0} and 3 not in session.state.clients
    session.begin_round()
    session.take(update(1, 0.1, 5.0))
    session.take(FailedUpdate(2, "the training loss is nan"))
    session.checkpoint()
    again = Session(federation, RunFolder(tmp_path / "run", config), Listener())
    assert {c: float(t["test/mark"]) for c, t in again.state.clients.items()} == {1: 3.0, 2: 2.0}
    with pytest.raises(ConfigError, match="another configuration"):
        Session(
            Federation.build(dataclasses.replace(config, seed=8), federation.data),
            RunFolder(tmp_path / "run", config),
            Listener(),
        )


def test_a_checkpoint_writes_what_changed_and_no_more(tmp_path) -> None:
    """The state of a thousand clients is not written again because two of them took a turn."""
    folder = tmp_path / "checkpoint"
    state = RunState(1, {"a": torch.ones(2)}, {}, clients={c: {"x/a": torch.full((2,), float(c))} for c in (1, 2, 3)})
    save_checkpoint(folder, state, "digest")
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("client-*")}
    assert sorted(before) == [f"client-{client}-round-1.safetensors" for client in (1, 2, 3)]
    state.round, state.clients = 2, state.clients | {2: {"x/a": torch.full((2,), 9.0)}}
    save_checkpoint(folder, state, "digest")
    after = {path.name: path.stat().st_mtime_ns for path in folder.glob("client-*")}
    assert sorted(after) == [
        "client-1-round-1.safetensors",
        "client-2-round-2.safetensors",
        "client-3-round-1.safetensors",
    ]
    assert all(before[name] == when for name, when in after.items() if name in before)
    loaded = load_checkpoint(folder, "digest")
    assert {client: float(kept["x/a"][0]) for client, kept in loaded.clients.items()} == {1: 1.0, 2: 9.0, 3: 3.0}
    loaded.round = 3
    save_checkpoint(folder, loaded, "digest")
    assert sorted(path.name for path in folder.glob("client-*")) == sorted(after)
    (folder / "client-3-round-1.safetensors").write_bytes(b"torn")
    with pytest.raises(ConfigError, match="client-3-round-1"):
        load_checkpoint(folder, "digest")
    remove_checkpoint(folder)
    assert not folder.exists()


def test_client_state_goes_through_the_workers_pipes(tmp_path, forks, whole) -> None:
    """In a process of its own: a process that has trained cannot fork trainers."""
    driver = tmp_path / "driver.py"
    driver.write_text(
        "import sys\n"
        "from test_client_state import ClientSide, with_momentum\n"
        "from fs_fedmllm.cli import main\n"
        "ClientSide.update = with_momentum\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    words = [*SHORT, *map(str, LONG), "outdir", str(tmp_path), "expname", "two", "fedmllm.workers", "2"]
    done = forks.run(
        [driver, "run", CONFIGS / "aligned_a05.yaml", "--engine", "embedded", *words],
        tmp_path, {**os.environ, "PYTHONPATH": str(CONFIGS.parent / "tests")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads((tmp_path / "two" / "results.json").read_text())["adapter_sha256"] == whole
