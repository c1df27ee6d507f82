"""Turns in worker processes give the bytes of turns one after the other."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
from types import SimpleNamespace

import pytest
from short_runs import CONFIGS, SHORT

from fs_fedmllm import config as schema
from fs_fedmllm.errors import FedMLLMError
from fs_fedmllm.rounds import workers as worker_processes
from fs_fedmllm.rounds.workers import WorkerPool, further_accelerators, spread, useful_workers
from fs_fedmllm.runs.simulation import run


def test_workers_change_time_and_nothing_else(tmp_path, forks) -> None:
    """In processes of their own: a process that has trained cannot fork trainers."""
    words = [*SHORT, "federate.sample_client_num", "3", "outdir", str(tmp_path)]
    results = {1: run(schema.load(CONFIGS / "cross_i3t7.yaml", [*words, "expname", "w1"]))[0]}
    for workers in (2, 3):
        done = forks.run(
            ["-m", "fs_fedmllm", "run", CONFIGS / "cross_i3t7.yaml", "--engine", "embedded", *words,
             "expname", f"w{workers}", "fedmllm.workers", workers],
            tmp_path, os.environ,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        results[workers] = json.loads((tmp_path / f"w{workers}" / "results.json").read_text())
    assert len({r["adapter_sha256"] for r in results.values()}) == 1
    assert results[1]["evaluations"] == results[2]["evaluations"] == results[3]["evaluations"]


def test_a_process_that_has_trained_runs_turns_itself(federation) -> None:
    state = federation.initial_state()
    expected = federation.clients.update(1, 0, state)
    with WorkerPool(federation, 2) as pool:
        (update,) = pool.updates([1], 0, state)
    assert all((update.state[n] == expected.state[n]).all() for n in state)


def test_a_worker_ends_in_silence_with_a_parent_that_leaves_its_answer_unread(monkeypatch, capfd) -> None:
    """One client's update ends the run while another's is on its way."""
    trained = SimpleNamespace(sum=lambda: SimpleNamespace(backward=lambda: None))
    monkeypatch.setattr(worker_processes, "torch", SimpleNamespace(zeros=lambda *_, **__: trained))
    processes = multiprocessing.get_context("fork")
    ours, its = processes.Pipe()
    worker = processes.Process(target=worker_processes._serve, args=(its, SimpleNamespace(clients=None), (ours,)))
    worker.start()
    its.close()
    assert ours.poll(120)
    ours.close()
    worker.join(120)
    assert worker.exitcode == 0
    assert capfd.readouterr().err == ""


def test_a_worker_that_dies_at_its_start_is_told(federation, monkeypatch) -> None:
    monkeypatch.setattr(worker_processes, "_serve", lambda *_: os._exit(1))
    with pytest.raises(FedMLLMError, match=r"clients' updates ended .*fedmllm\.workers 1"):
        WorkerPool(federation, 2)


def test_workers_are_only_used_where_they_are_safe(federation, monkeypatch) -> None:
    import torch

    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    assert useful_workers(federation) == 0  # the short configuration asks for none
    config = federation.config
    free = dataclasses.replace(config, fedmllm=dataclasses.replace(config.fedmllm, workers=0))
    federation = dataclasses.replace(federation, config=free)
    assert useful_workers(federation) == config.sampled_clients == 2
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert useful_workers(federation) == 0


def test_clients_are_spread_over_accelerators() -> None:
    assert spread(visible=4, own=0, wanted=0, clients=10) == [1, 2, 3]
    assert spread(visible=4, own=2, wanted=3, clients=10) == [0, 1]
    assert spread(visible=4, own=0, wanted=0, clients=2) == [1]
    assert spread(visible=4, own=0, wanted=1, clients=10) == spread(1, 0, 0, 10) == spread(4, 0, 0, 1) == []


def test_a_process_with_a_model_of_its_own_gives_the_same_bytes(federation) -> None:
    """As on several accelerators, with the processor in their place: one process beside this one."""
    import torch

    torch.set_num_threads(1)
    assert further_accelerators(federation) == []
    state = federation.initial_state()
    expected = [federation.clients.update(client, 0, state) for client in (1, 2, 3)]
    with WorkerPool(federation, 0, accelerators=[-1]) as pool:
        updates = list(pool.updates([1, 2, 3], 0, state))
    assert [update.client for update in updates] == [1, 2, 3]
    for ours, theirs in zip(expected, updates, strict=True):
        assert all(torch.equal(ours.state[name], theirs.state[name]) for name in state)
    assert not pool._processes
