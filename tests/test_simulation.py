"""The embedded engine: what "identical" means, refusals, resume, memory."""

from __future__ import annotations

import dataclasses
import gc
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from short_runs import CONFIGS, SHORT
from waiting import wait_until

from fs_fedmllm import config as schema
from fs_fedmllm.errors import ConfigError, UpdateError
from fs_fedmllm.models.export import adapter_bytes
from fs_fedmllm.rounds.client import ClientSide
from fs_fedmllm.rounds.federation import Federation
from fs_fedmllm.runs.console import closing_table
from fs_fedmllm.runs.listener import Listener
from fs_fedmllm.runs.run_folder import RunFolder
from fs_fedmllm.runs.session import Session
from fs_fedmllm.runs.simulation import run
from fs_fedmllm.scenarios.federated_data import prepare_data

METHODS = ("fedavg", "fedavgm", "fedadagrad", "fedadam", "fedyogi")


def _federation(config) -> Federation:
    return Federation.build(config, prepare_data(config))


@pytest.mark.parametrize("method", METHODS)
def test_rounds_in_which_clients_change_nothing_leave_the_adapter_bit_identical(short_config, method) -> None:
    config = short_config("cross_i3t7", "train.optimizer.lr", 0.0, "federate.method", method, "eval.freq", 5)
    results, folder = run(config)
    saved = (folder.path / "adapter" / "adapter_model.safetensors").read_bytes()
    assert saved == adapter_bytes(_federation(config).initial_state())
    assert results["rounds"] == 2


@pytest.mark.parametrize("method", ["fedavg", "fedyogi"])  # that a step is a function: test_server_optimizers
def test_the_same_configuration_gives_the_same_adapter(short_config, method) -> None:
    config = short_config("hybrid_p60", "federate.method", method, "seed", 3)
    first, _ = run(config)
    again, _ = run(config)
    other, _ = run(short_config("hybrid_p60", "federate.method", method, "seed", 4))
    assert first["adapter_sha256"] == again["adapter_sha256"] != other["adapter_sha256"]
    assert first["manifest_sha256"] == again["manifest_sha256"] != other["manifest_sha256"]
    assert first["evaluations"] == again["evaluations"]


def test_one_client_equals_centralised(short_config) -> None:
    one = short_config(
        "aligned_a05", "federate.client_num", 1, "federate.sample_client_num", 1, "train.optimizer.lr", 1.0e-3
    )
    federation = _federation(one)
    state = federation.initial_state()
    for round_index in range(2):
        state = federation.clients.update(1, round_index, state).state
    _, folder = run(one)
    from safetensors.torch import load_file

    def apart(left, right) -> float:
        """Distance of two adapters over the norm of one: Adam amplifies rounding where gradients vanish."""
        flat = [torch.cat([t.flatten() for _, t in sorted(s.items())]).double() for s in (left, right)]
        return float((flat[0] - flat[1]).norm() / flat[1].norm())

    federated = load_file(folder.path / "adapter" / "adapter_model.safetensors")
    assert apart(federation.initial_state(), state) > 0
    assert apart(federated, state) < 1e-6
    _, pooled = run(dataclasses.replace(one, federate=dataclasses.replace(one.federate, method="global")))
    centralised = load_file(pooled.path / "adapter" / "adapter_model.safetensors")
    assert apart(centralised, federated) < 1e-6


def test_the_order_in_which_updates_arrive_does_not_matter(short_config, tmp_path) -> None:
    """Engines add in sorted order; whatever comes early waits. Adding out of order is refused, not averaged."""
    config = short_config()
    federation = _federation(config)
    session = Session(federation, RunFolder(tmp_path / "run", config), Listener())
    clients = session.begin_round().clients
    updates = {c: federation.clients.update(c, 0, session.state.params) for c in reversed(clients)}
    for client in sorted(updates):
        assert session.take(updates[client])
    session.end_round(len(clients))
    expected, _ = run(dataclasses.replace(config, federate=dataclasses.replace(config.federate, total_round_num=1)))
    import hashlib

    assert hashlib.sha256(adapter_bytes(session.state.params)).hexdigest() == expected["adapter_sha256"]


@pytest.mark.parametrize("fault", ["nan", "shape", "unknown", "nothing"])
def test_a_bad_update_is_refused_and_named_and_the_round_goes_on(short_config, tmp_path, fault) -> None:
    config = short_config("cross_i3t7", "federate.sample_client_num", 3)
    federation = _federation(config)
    session = Session(federation, RunFolder(tmp_path / "run", config), Listener())
    clients = session.begin_round().clients
    updates = [federation.clients.update(c, 0, session.state.params) for c in clients]
    name = next(iter(session.state.params))
    spoilt = {
        "nan": updates[1].state | {name: torch.full_like(session.state.params[name], float("nan"))},
        "shape": updates[1].state | {name: torch.zeros(3, 3)},
        "unknown": updates[1].state | {"something.else": torch.zeros(3)},
        "nothing": {},
    }[fault]
    assert session.take(updates[0])
    assert not session.take(dataclasses.replace(updates[1], state=spoilt))
    assert session.take(updates[2])
    session.end_round(3)
    (refused,) = session.state.figures["refused"]
    assert refused["client"] == clients[1] and f"Client {clients[1]}" in refused["reason"]
    reference = Session(federation, RunFolder(tmp_path / "reference", config), Listener())
    reference.begin_round()
    for update in (updates[0], updates[2]):
        reference.take(update)
    reference.end_round(3)
    assert adapter_bytes(session.state.params) == adapter_bytes(reference.state.params)


def test_without_a_valid_client_the_run_stops_and_keeps_the_last_good_adapter(short_config, monkeypatch) -> None:
    config = short_config("cross_i3t7", "expname", "stops")
    turn = ClientSide.update

    def broken(self, client, round_index, *rest):
        update = turn(self, client, round_index, *rest)
        if round_index == 0:
            return update
        return dataclasses.replace(update, state={n: t * float("inf") for n, t in update.state.items()})

    monkeypatch.setattr(ClientSide, "update", broken)
    with pytest.raises(UpdateError, match=r"Round 1.*not finite.*last good adapter"):
        run(config)
    kept = (Path(config.outdir) / "stops" / "adapter" / "adapter_model.safetensors").read_bytes()
    monkeypatch.setattr(ClientSide, "update", turn)
    shorter = dataclasses.replace(config.federate, total_round_num=1)
    _, folder = run(dataclasses.replace(config, federate=shorter, expname="one"))
    assert kept == (folder.path / "adapter" / "adapter_model.safetensors").read_bytes()


def test_the_run_folder_holds_what_it_promises(short_config) -> None:
    config = short_config("cross_i3t7", "fedmllm.eval.zero_shot", True, "fedmllm.regularizer.type", "adaptive")
    results, folder = run(config, label="promise")
    assert folder.path.name.startswith("promise-fedavg-")
    names = {p.name for p in folder.path.iterdir()}
    assert {"resolved_config.yaml", "manifest.json", "metrics.jsonl", "results.json", "adapter", "events"} <= names
    assert "checkpoint" not in names
    lines = [json.loads(line) for line in (folder.path / "metrics.jsonl").read_text().splitlines()]
    turns = [line for line in lines if line["kind"] == "turn"]
    assert len(turns) == 4 and {"client", "loss", "penalty", "grad_norm"} <= set(turns[0])
    assert all(turn["penalty"] > 0 and turn["grad_norm"] > 0 for turn in turns)
    assert results["zero_shot"]["round"] == 0 and results["evaluations"][-1]["round"] == 2
    rates = json.loads((folder.path / "manifest.json").read_text())["missing_rates"]
    assert results["missing_rates"] == rates and rates["nominal"] == {"image": 0.7, "text": 0.3}
    table = closing_table(json.loads((folder.path / "results.json").read_text()), "x")
    assert results["model"] == "tiny" and "\nmodel: tiny\n" in table
    assert f"missing modalities: image 70.0 % nominal, {100 * rates['measured']['image']:.1f} % measured" in table
    size = (folder.path / "adapter" / "adapter_model.safetensors").stat().st_size
    assert results["adapter_bytes"] == size and results["bytes_sent"] == 2 * 2 * 2 * size
    assert schema.load(folder.path / "resolved_config.yaml") == config
    assert list((folder.path / "events").iterdir())
    _, second = run(config, label="promise")
    assert second.path != folder.path


THREE_ROUNDS = ("federate.total_round_num", 3, "eval.freq", 1, "federate.method", "fedyogi")


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict[str, Any]:
    """The results of a run that nothing ends early."""
    words = [*SHORT, *map(str, THREE_ROUNDS), "outdir", str(tmp_path_factory.mktemp("exp"))]
    return run(schema.load(CONFIGS / "missing_b50.yaml", words))[0]


@pytest.mark.parametrize("rounds_before", [1, 2])
def test_a_killed_run_resumes_to_the_same_bytes(short_config, monkeypatch, whole, rounds_before) -> None:
    config = short_config("missing_b50", *THREE_ROUNDS, "expname", "killed")
    turn = ClientSide.update

    def dies(self, client, round_index, *rest):
        if round_index == rounds_before:
            raise KeyboardInterrupt
        return turn(self, client, round_index, *rest)

    monkeypatch.setattr(ClientSide, "update", dies)
    with pytest.raises(KeyboardInterrupt):
        run(config)
    monkeypatch.setattr(ClientSide, "update", turn)
    resumed, folder = run(config)
    assert folder.path.name == "killed"
    assert resumed["adapter_sha256"] == whole["adapter_sha256"]
    assert resumed["evaluations"] == whole["evaluations"] and resumed["best"] == whole["best"]
    lines = (folder.path / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 3 * (2 + 1 + 1)  # each round: two turns, the round, its evaluation; nothing twice


def test_kill_nine_and_the_same_command_again(tmp_path, forks) -> None:
    words = [*SHORT, "train.local_update_steps", "1", "federate.total_round_num", "8", "eval.freq", "8"]
    words += ["outdir", str(tmp_path), "expname"]
    command = ["-m", "fs_fedmllm", "run", CONFIGS / "aligned_a05.yaml", "--engine", "embedded", *words]
    process = forks.start([*command, "killed"], tmp_path, os.environ)
    state = tmp_path / "killed" / "checkpoint" / "state.json"
    wait_until(lambda: process.poll() is not None or state.is_file())
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert state.is_file() and not (tmp_path / "killed" / "results.json").is_file()
    done = forks.run([*command, "killed"], tmp_path, os.environ)
    assert done.returncode == 0, done.stderr[-2000:]
    resumed = json.loads((tmp_path / "killed" / "results.json").read_text())
    whole, _ = run(schema.load(CONFIGS / "aligned_a05.yaml", [*words, "whole"]))
    assert resumed["adapter_sha256"] == whole["adapter_sha256"]


def test_another_runs_checkpoint_and_a_torn_one_are_refused(short_config, monkeypatch) -> None:
    config = short_config("cross_i3t7", "expname", "mine", "federate.total_round_num", 3)
    monkeypatch.setattr(Session, "close", lambda self: {})  # as if killed before the end
    run(config)
    with pytest.raises(ConfigError, match="another configuration"):
        run(dataclasses.replace(config, seed=9))
    (tensors,) = (Path(config.outdir) / "mine" / "checkpoint").glob("*.safetensors")
    tensors.write_bytes(tensors.read_bytes()[:-4])
    with pytest.raises(ConfigError, match="damaged"):
        run(config)


def _base_storages() -> list[int]:
    """Storages of float32 tensors as large as the embedding table: one per live copy of the base."""
    gc.collect()
    seen = set()
    for thing in gc.get_objects():  # by its type: isinstance asks each of a million objects for its __class__
        if issubclass(type(thing), torch.nn.Parameter) and thing.numel() > 40_000 and not thing.requires_grad:
            seen.add((thing.untyped_storage().data_ptr(), thing.shape))
    return sorted(pointer for pointer, _ in seen)


def test_one_live_copy_of_the_base_whatever_the_clients(short_config) -> None:
    one = ("federate.total_round_num", 1, "eval.freq", 1)
    run(short_config("aligned_a05", *one, "federate.client_num", 2))
    few = _base_storages()
    run(short_config("aligned_a05", *one, "federate.client_num", 40, "federate.sample_client_num", 4))
    assert few and _base_storages() == few


def test_a_run_folder_cannot_be_outside_of_outdir(short_config, tmp_path) -> None:
    for name in ("..", ".", ".hidden", "a/b"):
        with pytest.raises(ConfigError, match="no dot first"):
            run(short_config("cross_i3t7", "expname", name))
    (tmp_path / "exp" / "mine" / "checkpoint").mkdir(parents=True)
    (tmp_path / "exp" / "mine" / "checkpoint" / "thesis.txt").write_text("not ours")
    run(short_config("cross_i3t7", "expname", "mine"))
    assert (tmp_path / "exp" / "mine" / "checkpoint" / "thesis.txt").read_text() == "not ours"


def test_gradient_checkpointing_changes_memory_and_not_the_adapter(short_config) -> None:
    plain, _ = run(short_config("aligned_a05"))
    saving, _ = run(short_config("aligned_a05", "fedmllm.train.gradient_checkpointing", True))
    assert plain["adapter_sha256"] == saving["adapter_sha256"]


def test_the_measured_rate_is_that_of_the_rows_a_client_trains_on(short_config) -> None:
    on = ("fedmllm.regularizer.type", "adaptive")
    split, pooled = (
        _federation(short_config("cross_i3t7", *on, *more)) for more in ((), ("federate.method", "global"))
    )
    assert {split.clients.halves(c)[0].penalty.gamma for c in split.data.clients} == {0.1}
    rows = pooled.data.clients[1]
    share = max(sum(r.image is None for r in rows), sum(r.text is None for r in rows)) / len(rows)
    assert pooled.clients.halves(1)[0].penalty.gamma == pytest.approx(0.1 * share) and 0 < share < 1


def test_local_reports_the_uniform_mean_of_the_clients(short_config) -> None:
    config = short_config("cross_i3t7", "federate.method", "local", "federate.client_num", 3,
                          "data.splitter_args", "[{alpha: 5.0, image_clients: 1, text_clients: 2}]")  # fmt: skip
    results, folder = run(config)
    figures = [json.loads(p.read_text()) for p in sorted((folder.path / "clients").glob("*.json"))]
    assert len(list((folder.path / "clients").glob("*/adapter_model.safetensors"))) == 3
    assert results["adapter_sha256"] is None and not (folder.path / "adapter").exists()
    assert len(figures) == 3
    last = results["evaluations"][-1]
    assert last["test_acc"] == pytest.approx(sum(f["test_acc"] for f in figures) / 3)


@pytest.mark.parametrize("dataset", ["digits_match", "digits_panel"])
def test_the_other_embedded_tasks_run(short_config, dataset) -> None:
    key = {"digits_match": "val_auc", "digits_panel": "val_acc"}[dataset]
    args = ["data.type", dataset, "eval.best_res_update_round_wise_key", key]
    if dataset == "digits_panel":
        args += ["data.splitter_args", "[{alpha: 0.5, by: kind}]"]
    results, _ = run(short_config("aligned_a05", *args))
    last = results["evaluations"][-1]
    expected = {"digits_match": {"test_auc", "test_auc_hard"}, "digits_panel": {"test_open_acc", "test_closed_acc"}}
    assert expected[dataset] <= set(last)


def test_the_augmented_prompt_reaches_training_and_evaluation(short_config) -> None:
    plain = _federation(short_config())
    augmented = _federation(short_config("cross_i3t7", "fedmllm.prompt", "augmented"))
    row = plain.data.dataset.test[0]
    texts = [f.mllm.tokenizer.decode(f.encoder.encode([row])[0].prompt) for f in (plain, augmented)]
    assert "without considering the modality" in texts[1] and "without considering" not in texts[0]
    assert plain.evaluator.encoder is plain.encoder is plain.trainer.encoder
