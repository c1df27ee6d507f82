"""Trackers and TensorBoard: what a run reports, once, also where it was interrupted; and what it never reports."""

from __future__ import annotations

import importlib.util
import json
import re
import struct
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from short_runs import CONFIGS, SHORT

from fs_fedmllm import config as schema
from fs_fedmllm.cli import main
from fs_fedmllm.errors import ConfigError
from fs_fedmllm.runs import tracking
from fs_fedmllm.runs.tracking import Trackers, named_figures, public_figures, public_settings

PRESET = str(CONFIGS / "cross_i3t7.yaml")
WORDS = ["run", PRESET, "--engine", "embedded", *SHORT, "federate.total_round_num=3", "eval.freq=1"]


class Fake:
    """A tracker that keeps what it is told; it fails where it is asked to."""

    def __init__(self, fails: str = ""):
        self.fails, self.told, self.opened, self.ended = fails, list[tuple[int, int]](), list[str](), ""

    def _may(self, method: str) -> None:
        if self.fails == method:
            raise RuntimeError("https://me:secret@host/api?key=abc is away")

    def open(self, name: str, known: str, settings: Mapping[str, Any]) -> str:
        self._may("open")
        self.opened.append(known)
        return known or "run-1"

    def log(self, number: int, step: int, figures: Mapping[str, float]) -> None:
        self._may("log")
        self.told.append((number, step))

    def close(self, status: str) -> None:
        self._may("close")
        self.ended = status


def config(*words: str) -> schema.Config:
    return schema.load(CONFIGS / "cross_i3t7.yaml", [*SHORT, *words])


def line(index: int, kind: str = "turn", **more: Any) -> dict[str, Any]:
    return {"kind": kind, "round": index, "client": 1, "loss": 1.5, **more}


def test_lines_are_told_once_they_stand_and_go_on_after_an_interruption(tmp_path: Path) -> None:
    fake = Fake()
    own = config("fedmllm.report_to=[wandb]")

    def trackers() -> Trackers:
        return Trackers(tmp_path, own, {"wandb": lambda _: fake, "mlflow": lambda _: pytest.fail("not asked for")})

    lines = [line(0), line(0), line(1), line(1)]
    first = trackers()
    first.begin(0)
    for one in lines[:2]:
        first.record(one)
    assert fake.told == []
    first.stands()
    first.record(lines[2])  # a checkpoint does not hold it: a resumed run computes it again
    first.close("stopped")
    assert fake.told == [(0, 0), (1, 0)] and fake.ended == "stopped"
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines[:3]))
    second = trackers()
    second.begin(3)  # the checkpoint held the third line, and the process was killed before it was told
    second.record(lines[3])
    second.stands()
    second.close("finished")
    assert fake.told == [(0, 0), (1, 0), (2, 1), (3, 1)] and fake.opened == ["", "run-1"] and fake.ended == "finished"


@pytest.mark.parametrize("method", ["open", "log", "close"])
def test_a_tracker_that_fails_is_told_once_and_without_secrets(method: str, tmp_path: Path, caplog) -> None:
    fake = Fake(method)
    trackers = Trackers(tmp_path, config("fedmllm.report_to=[mlflow]"), {"mlflow": lambda _: fake})
    trackers.begin(0)
    for index in range(3):
        trackers.record(line(index))
        trackers.stands()
    trackers.close("finished")
    (told,) = [record.getMessage() for record in caplog.records]
    assert (
        "mlflow fails" in told and "the run goes on without it" in told and "secret" not in told and "abc" not in told
    )


def test_what_is_told_of_lines_and_of_the_configuration() -> None:
    own = config(
        "fedmllm.judge.base_url=https://me:secret@host/v1", "fedmllm.hub.repo=me/private", "outdir=/home/me/exp",
        "fedmllm.data={title: Ward of Dr Who}", "federate.save_to=/home/me/a.safetensors",
    )  # fmt: skip
    told = public_settings(own)
    assert told["federate.method"] == "fedavg" and told["seed"] == 0 and told["model.fedmllm.path"] == "tiny"
    text = json.dumps(told)
    assert not [word for word in ("secret", "/home", "Ward", "private", "hub", "judge", "root") if word in text]
    figures = {"test_acc": 0.5, "test_image_loss": 1.0, "test_open_acc": 0.1, "test_Mrs Smith_acc": 1.0}
    evaluation = line(3, "evaluation", **figures)
    public = public_figures(evaluation, own)
    assert "evaluation/test_Mrs Smith_acc" in named_figures(evaluation)
    assert set(public) == {"evaluation/test_acc", "evaluation/test_image_loss", "evaluation/test_open_acc"}
    assert public_figures(line(1, penalty=0.0, well=True), own) == {"client_1/loss": 1.5}
    assert set(public_figures({"kind": "test_set", "round": 1, "set": "ward", "test_acc": 1.0}, own)) == {
        "test_set_ward/test_acc"
    }


def test_an_unknown_tracker_and_a_missing_extra_are_refused(capsys, monkeypatch, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"report_to has 'wandbb', .* did you mean 'wandb'\?"):
        config("fedmllm.report_to=[wandbb]")
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "mlflow" else find(name, *a))
    assert main([*WORDS, f"outdir={tmp_path / 'exp'}", "fedmllm.report_to=[mlflow]"]) == 2
    assert "pip install 'fs-fedmllm[mlflow]'" in capsys.readouterr().err and not (tmp_path / "exp").exists()
    from fs_fedmllm.extras import check_extras

    check_extras(
        config("fedmllm.report_to=[mlflow]"), evaluates=False
    )  # a client of a distributed run reports nothing


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was stopped in its second round, after half of its updates, and went on."""
    from fs_fedmllm.runs.session import Session

    folder, taken = tmp_path_factory.mktemp("runs"), list[int]()
    words = [*WORDS, f"outdir={folder}", "expname=told", "fedmllm.report_to=[tensorboard, wandb, mlflow]",
             "fedmllm.test_sets={panel: {type: digits_panel}}"]  # fmt: skip
    plain = Session.take

    def take(self: Session, update: Any) -> bool:
        taken.append(update.client)
        accepted = plain(self, update)
        if len(taken) == 3:
            raise KeyboardInterrupt
        return accepted

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setattr(Session, "take", take)
        assert main(words) == 130
        assert main(words) == 0
    return folder / "told"


def lines_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in (folder / "metrics.jsonl").read_text().splitlines()]


def expected(folder: Path) -> Counter[tuple[str, int]]:
    """Every figure of every line; those of the further test set are among them."""
    assert {one["set"] for one in lines_of(folder) if one["kind"] == "test_set"} == {"panel"}
    return Counter((name, one["round"]) for one in lines_of(folder) for name in named_figures(one))


needs_trackers = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("wandb", "mlflow")), reason="NOT RUN: no wandb, no mlflow"
)


def wandb_records(file: Path) -> Iterator[Any]:
    """The records of a run's file: LevelDB's log format behind a header of seven bytes, in wandb's own messages."""
    from wandb.proto import wandb_internal_pb2

    data, at, parts = file.read_bytes(), 7, b""
    assert data[:4] == b":W&B"
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:  # the end of a block
            at += 32768 - at % 32768
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole record, or its last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            yield record
            parts = b""


@needs_trackers
def test_tensorboard_has_every_step_once_after_a_resume(interrupted: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(interrupted / "events"))
    events.Reload()
    found = Counter((tag, event.step) for tag in events.Tags()["scalars"] for event in events.Scalars(tag))
    assert found == expected(interrupted) and max(found.values()) == 1
    times = [event.wall_time for event in events.Scalars("round/clients")]
    assert times == sorted(times) and len(times) == 3


@needs_trackers
def test_mlflow_has_one_run_with_every_step_once(interrupted: Path) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=(interrupted.parent / "mlruns").as_uri())
    experiment = client.get_experiment_by_name("fs-fedmllm")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED" and run.data.params["federate.method"] == "fedavg"
    found = Counter(
        (name, metric.step) for name in run.data.metrics for metric in client.get_metric_history(run.info.run_id, name)
    )
    assert found == expected(interrupted)
    assert run.info.run_id == json.loads((interrupted / "trackers.json").read_text())["mlflow"]["run"]


@needs_trackers
def test_wandb_has_one_run_with_every_step_once(interrupted: Path) -> None:
    files = sorted((interrupted / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len(files) == 2  # one for each process; wandb sync puts them together by the run's id
    found: Counter[tuple[str, int]] = Counter()
    names, steps, settings = set(), list[int](), dict[str, Any]()
    for file in files:
        for record in wandb_records(file):
            if record.WhichOneof("record_type") == "run":
                names.add((record.run.run_id, record.run.display_name))
                settings |= {item.key or item.nested_key[0]: item.value_json for item in record.run.config.update}
            if record.WhichOneof("record_type") == "history":
                row = {".".join(i.nested_key) or i.key: json.loads(i.value_json) for i in record.history.item}
                steps.append(record.history.step.num)
                found.update((name, row["round"]) for name in row if "/" in name)
    assert names == {(json.loads((interrupted / "trackers.json").read_text())["wandb"]["run"], "told")}
    assert found == expected(interrupted) and steps == sorted(set(steps))
    assert settings["federate.method"] == '"fedavg"'


@needs_trackers
def test_nothing_of_this_machine_is_in_what_trackers_keep(interrupted: Path) -> None:
    import getpass
    import socket

    records = [str(each) for file in (interrupted / "wandb").rglob("run-*.wandb") for each in wandb_records(file)]
    params = [file.read_text() for file in (interrupted.parent / "mlruns").rglob("params/*")]
    assert records and params
    # As a word: a short name of a machine stands in an id now and then.
    name = re.compile(rf"\b{re.escape(socket.gethostname())}\b")
    assert not [text for text in (*records, *params) if name.search(text)]
    users = [path.read_text() for path in (interrupted.parent / "mlruns").rglob("tags/mlflow.user")]
    assert all(getpass.getuser() not in user for user in users)


def test_a_run_without_trackers_writes_no_events(tmp_path: Path) -> None:
    assert tracking.FILE == "trackers.json"
    own = config("fedmllm.report_to=[]", f"outdir={tmp_path}")
    from fs_fedmllm.runs.run_folder import RunFolder

    folder = RunFolder(tmp_path / "run", own)
    folder.keep_lines(0)
    folder.record("turn", 0, {"client": 1, "loss": 1.0})
    folder.close()
    assert sorted(path.name for path in folder.path.iterdir()) == ["metrics.jsonl"]
