"""The mean of the last rounds' adapters: by hand, through an interruption, and where it goes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from fs_fedmllm.cli import main
from fs_fedmllm.errors import ConfigError
from fs_fedmllm.runs.last_rounds import kept_rounds, mean_adapter
from fs_fedmllm.runs.session import Session
from fs_fedmllm.runs.simulation import run

WORDS = ("federate.total_round_num", 4, "eval.freq", 4, "fedmllm.average_last", 3, "expname")


def test_a_is_averaged_with_a_and_b_with_b() -> None:
    states = [{"a": torch.tensor([value]), "b": torch.tensor([[2 * value]])} for value in (1.0, 2.0, 6.0)]
    mean = mean_adapter(states)
    assert mean["a"].tolist() == [3.0] and mean["b"].tolist() == [[6.0]] and mean["a"].dtype == torch.float32
    assert (mean["a"] * mean["b"]).item() == 18.0  # not the products' mean, (2 + 8 + 72) / 3


def test_the_last_k_are_kept_oldest_first() -> None:
    recent: list[Any] = []
    for value in range(5):
        recent = kept_rounds(recent, {"a": torch.tensor(float(value))}, 3)
    assert [state["a"].item() for state in recent] == [2.0, 3.0, 4.0]
    assert kept_rounds(recent, {"a": torch.tensor(9.0)}, 0) == []


@pytest.fixture
def rounds(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, torch.Tensor]]:
    """The adapter after every round of the runs that follow."""
    seen: list[dict[str, torch.Tensor]] = []
    ended = Session.end_round

    def end_round(self: Session, *args: Any, **kwargs: Any) -> None:
        ended(self, *args, **kwargs)
        seen.append({name: tensor.clone() for name, tensor in self.state.params.items()})

    monkeypatch.setattr(Session, "end_round", end_round)
    return seen


def test_a_run_writes_evaluates_and_resumes_it(
    short_config, rounds, monkeypatch: pytest.MonkeyPatch, tmp_path
) -> None:
    words = ("federate.method", "fedyogi")
    results, folder = run(short_config("cross_i3t7", *WORDS, "whole", *words))
    average = load_file(folder.path / "adapter_average" / "adapter_model.safetensors")
    for name, tensor in mean_adapter(rounds[1:4]).items():
        assert torch.equal(average[name], tensor)
    said = results["average_last"]
    assert said["rounds"] == [2, 3, 4] and 0 <= said["test_acc"] <= 1 and "val_macro_f1" in said
    plain, there = run(short_config("cross_i3t7", *WORDS[:4], "expname", "plain", *words))
    assert plain["adapter_sha256"] == results["adapter_sha256"] != said["adapter_sha256"]  # the run is as it was
    assert "average_last" not in plain and not (there.path / "adapter_average").exists()

    ended = Session.checkpoint

    def interrupted(self: Session) -> None:
        ended(self)
        if self.state.round == 3:
            raise KeyboardInterrupt

    again = short_config("cross_i3t7", *WORDS, "again", *words)
    with monkeypatch.context() as patch:
        patch.setattr(Session, "checkpoint", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(again)
    resumed, _ = run(again)
    assert resumed["average_last"] == said

    # Commands that take a run folder take this adapter too, and a release is of its figures.
    out = tmp_path / "release"
    push = ["push", str(folder.path), "someone/triage", "--which", "average", "--dry-run", str(out)]
    assert main([*push, "--base-model", "someone/base"]) == 0
    assert torch.equal(load_file(out / "adapter_model.safetensors")[name], average[name])
    card = (out / "README.md").read_text()
    assert "Mean of the adapters of the last 3 rounds, after round 4" in card and f"{said['test_acc']:.4f}" in card
    assert json.loads((out / "results.json").read_text())["average_last"]["rounds"] == [2, 3, 4]


class Shelf:
    """A publisher that keeps what it is offered."""

    def __init__(self) -> None:
        self.published: list[Any] = []
        self.failed: list[Any] = []
        self.offered: list[Any] = []

    def offer(self, release: Any) -> None:
        self.offered.append(release)

    def close(self) -> None:
        """Nothing is under way."""


def test_the_closing_push_may_be_the_mean(short_config, monkeypatch: pytest.MonkeyPatch, federation, tmp_path) -> None:
    from fs_fedmllm.hub.hook import HubHook

    plain = short_config("cross_i3t7", "fedmllm.average_last", 2)
    results, folder = run(plain)
    hub = dataclasses.replace(plain.fedmllm.hub, repo="someone/triage", average=True, base_model="someone/base")
    config, shelf = dataclasses.replace(plain, fedmllm=dataclasses.replace(plain.fedmllm, hub=hub)), Shelf()
    with monkeypatch.context() as patch:
        patch.setattr(federation, "config", config)
        state = federation.initial_state()
        mean = {name: tensor + 1 for name, tensor in state.items()}
        hook = HubHook(federation, folder.path, shelf)  # type: ignore[arg-type]
        hook.publish(2, state, state, dict, lambda: None, closing=results, average=mean)
    (release,) = shelf.offered
    assert not shelf.failed and release.message.startswith("Mean of rounds 1 to 2: val_macro_f1")
    file = tmp_path / "pushed.safetensors"
    file.write_bytes(release.files["adapter_model.safetensors"])
    name = next(iter(mean))
    assert torch.equal(load_file(file)[name], mean[name])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("fedmllm.average_last", 1), r"average_last is 1; it must be at least 2, or 0"),
        (("fedmllm.average_last", 3), r"average_last is 3, and federate\.total_round_num is 2"),
        (("fedmllm.average_last", 2, "federate.method", "local"), "has no global adapter"),
        (("fedmllm.average_last", 2, "fedmllm.aggregation.lora", "exact"), "rotates the factors' basis"),
        (("fedmllm.hub.average", "True"), "there is no mean to push"),
        (("fedmllm.average_last", 2, "fedmllm.hub.average", "True"), r"without fedmllm\.hub\.repo"),
    ],
)
def test_refusals(short_config, words, says) -> None:
    with pytest.raises(ConfigError, match=says):
        short_config("cross_i3t7", *words)


def test_a_checkpoint_with_too_few_of_them_does_not_fit(short_config, tmp_path: Path) -> None:
    from fs_fedmllm.runs.checkpoint import RunState
    from fs_fedmllm.runs.resumption import check_fit

    config, params = short_config("cross_i3t7", "fedmllm.average_last", 2), {"a": torch.zeros(1)}
    seconds = dict.fromkeys(("total", "training", "evaluation"), 0.0)
    figures = {
        "evaluations": [],
        "refused": [],
        "participants": [[1]],
        "seconds": seconds,
        "bytes_sent": 0,
        "turns": 1,
    }
    state = RunState(1, params, {}, {}, figures, recent=[])
    with pytest.raises(ConfigError, match="it holds the adapters of 0 rounds"):
        check_fit(tmp_path, state, config, params, {})
    state.recent = [{"a": torch.ones(1)}]
    check_fit(tmp_path, state, config, params, {})


def test_a_plan_counts_its_evaluation_and_its_files(short_config) -> None:
    from fs_fedmllm.scenarios.federated_data import prepare_data
    from fs_fedmllm.tools.planner.work import count_work

    words = ("fedmllm.eval.slices", "ends", "fedmllm.eval.limit", 8)
    data = prepare_data(short_config("cross_i3t7", *words))
    plain, planned = (
        count_work(short_config("cross_i3t7", *words, "fedmllm.average_last", k), data).scored for k in (0, 2)
    )
    assert planned - plain == 8 + 3 * 8  # validation rows, and test rows in three views
