"""Whole runs with compressed updates: the same bytes on every engine and after a resume, and every byte counted."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest
import torch
from safetensors.torch import save
from short_runs import CONFIGS, SHORT

from fs_fedmllm import config as schema
from fs_fedmllm.errors import ConfigError
from fs_fedmllm.models.export import adapter_bytes
from fs_fedmllm.rounds.client import ClientSide
from fs_fedmllm.rounds.client_update import ClientUpdate
from fs_fedmllm.rounds.federation import Federation
from fs_fedmllm.runs.listener import Listener
from fs_fedmllm.runs.run_folder import RunFolder
from fs_fedmllm.runs.session import Session
from fs_fedmllm.runs.simulation import run
from fs_fedmllm.scenarios.federated_data import prepare_data

INT4 = ("fedmllm.compression.upload", "int4", "fedmllm.compression.download", "bfloat16")
LONG = ("federate.client_num", 3, "federate.sample_client_num", 2, "federate.total_round_num", 4, "eval.freq", 4)


def _file_bytes(tensors) -> int:
    return len(save({name: t.contiguous() for name, t in tensors.items()}, metadata={"format": "pt"}))


@pytest.mark.parametrize("words", [(), ("fedmllm.compression.upload", "int8"), INT4])
def test_bytes_sent_are_the_sizes_of_the_files(short_config, monkeypatch, words) -> None:
    sizes: list[int] = []
    turn = ClientSide.update

    def counted(self, client, round_index, state, *rest) -> ClientUpdate:
        update = turn(self, client, round_index, state, *rest)
        sizes.extend([_file_bytes(state), _file_bytes(update.state)])
        return update

    monkeypatch.setattr(ClientSide, "update", counted)
    results, folder = run(short_config("cross_i3t7", *words))
    assert results["bytes_sent"] == sum(sizes) and len(sizes) == 8
    lines = [json.loads(line) for line in (folder.path / "metrics.jsonl").read_text().splitlines()]
    assert sum(line["bytes_sent"] for line in lines if line["kind"] == "round") == sum(sizes)
    if words == INT4:
        assert results["bytes_sent"] < 0.36 * 4 * 2 * results["adapter_bytes"]  # (1/2 + 1/7.5) / 2, and headers
    elif words:
        assert results["bytes_sent"] < 0.64 * 4 * 2 * results["adapter_bytes"]
    else:
        assert results["bytes_sent"] == 8 * results["adapter_bytes"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict[str, Any]:
    """The results of a run that nothing ends early."""
    words = [*SHORT, *map(str, LONG), *INT4, "outdir", str(tmp_path_factory.mktemp("exp"))]
    return run(schema.load(CONFIGS / "aligned_a05.yaml", words))[0]


def test_the_remainders_reach_the_next_turns(short_config, whole) -> None:
    off, _ = run(short_config("aligned_a05", *LONG, *INT4, "fedmllm.compression.error_feedback", "False"))
    assert off["adapter_sha256"] != whole["adapter_sha256"]


@pytest.mark.parametrize("rounds_before", [1, 3])
def test_a_killed_run_resumes_to_the_same_bytes(short_config, monkeypatch, whole, rounds_before) -> None:
    config = short_config("aligned_a05", *LONG, *INT4, "expname", "killed")
    turn = ClientSide.update

    def dies(self, client, round_index, *rest):
        if round_index == rounds_before:
            raise KeyboardInterrupt
        return turn(self, client, round_index, *rest)

    monkeypatch.setattr(ClientSide, "update", dies)
    with pytest.raises(KeyboardInterrupt):
        run(config)
    monkeypatch.setattr(ClientSide, "update", turn)
    resumed, _ = run(config)
    assert resumed["adapter_sha256"] == whole["adapter_sha256"]
    assert resumed["bytes_sent"] == whole["bytes_sent"]


def test_workers_change_nothing(tmp_path, forks, whole) -> None:
    """In a process of its own: a process that has trained cannot fork trainers."""
    words = [*SHORT, *map(str, LONG), *INT4, "outdir", str(tmp_path), "expname", "two", "fedmllm.workers", "2"]
    done = forks.run(
        ["-m", "fs_fedmllm", "run", CONFIGS / "aligned_a05.yaml", "--engine", "embedded", *words], tmp_path, os.environ
    )
    assert done.returncode == 0, done.stderr[-2000:]
    results = json.loads((tmp_path / "two" / "results.json").read_text())
    for name in ("adapter_sha256", "bytes_sent", "evaluations"):
        assert results[name] == whole[name]


def test_the_server_keeps_its_precision_and_steps_from_what_the_clients_received(short_config, tmp_path) -> None:
    config = short_config("cross_i3t7", "fedmllm.compression.download", "bfloat16")
    federation = Federation.build(config, prepare_data(config))
    session = Session(federation, RunFolder(tmp_path / "run", config), Listener())
    (client, *others) = session.begin_round().clients
    before, sent = session.state.params, session.message
    assert all(t.dtype == torch.bfloat16 for t in sent.values())
    lost = next(name for name in before if not torch.equal(before[name], sent[name].float()))
    update = federation.clients.update(client, 0, sent)
    session.take(update)
    session.end_round(1 + len(others))
    for name, tensor in before.items():
        moved = update.state[name] - sent[name].float()
        assert torch.allclose(session.state.params[name], tensor + moved, rtol=0, atol=1e-8)
    assert not torch.equal(session.state.params[lost], session.state.params[lost].bfloat16().float())


SCAFFOLD = ("federate.method", "scaffold")
FROZEN_A = ("fedmllm.aggregation.lora", "frozen_a")


@pytest.mark.parametrize("words", [(), INT4, (*SCAFFOLD, *INT4), (*FROZEN_A, *INT4)])
def test_the_server_knows_what_an_update_looks_like(short_config, tmp_path, words) -> None:
    config = short_config("cross_i3t7", *words)
    federation = Federation.build(config, prepare_data(config))
    session = Session(federation, RunFolder(tmp_path / "run", config), Listener())
    current = session.begin_round()
    client, _ = current.clients
    update = federation.clients.update(client, 0, current.message)

    def layout(tensors):
        return {name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()}

    assert layout(update.state) == layout(federation.server.upload_like(current.received))
    assert session.take(update)


def test_a_client_that_sends_another_precision_is_refused_and_named(short_config, tmp_path) -> None:
    config = short_config("cross_i3t7", *INT4)
    federation = Federation.build(config, prepare_data(config))
    session = Session(federation, RunFolder(tmp_path / "run", config), Listener())
    first, second = session.begin_round().clients
    update = federation.clients.update(first, 0, session.message)
    assert session.take(update)
    raw = ClientUpdate(second, 5, federation.initial_state(), update.log)
    assert not session.take(raw)
    (refused,) = session.state.figures["refused"]
    assert refused["client"] == second and "fedmllm.compression.upload" in refused["reason"]
    size = len(adapter_bytes(update.state)) + len(adapter_bytes(raw.state)) + 2 * _file_bytes(session.message)
    session.end_round(2)
    assert session.state.figures["bytes_sent"] == size


def test_local_sends_nothing_that_could_be_compressed() -> None:
    with pytest.raises(ConfigError, match=r"fedmllm\.compression\.upload"):
        schema.load(CONFIGS / "cross_i3t7.yaml", [*SHORT, "federate.method", "local", *INT4])
