"""What a checkpoint belongs to, and what a changed or malformed one does: one sentence, never a traceback."""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from fs_fedmllm.config import Config
from fs_fedmllm.data.sample import Dataset, Sample
from fs_fedmllm.data.template_file import load_template, template_dir
from fs_fedmllm.errors import ConfigError
from fs_fedmllm.files.sealing import sealed
from fs_fedmllm.models.loader import resolve_path
from fs_fedmllm.runs.belongings import belongings
from fs_fedmllm.runs.checkpoint import RunState, load_checkpoint, read_head, save_checkpoint
from fs_fedmllm.runs.progress import ConsoleProgress
from fs_fedmllm.runs.resumption import announce, check_fit, identity
from fs_fedmllm.runs.run_folder import RunFolder, claimed
from fs_fedmllm.scenarios.federated_data import FederatedData
from fs_fedmllm.scenarios.manifest import ALGORITHM, Manifest

PARAMS = {"w": torch.ones(2, 3), "b": torch.zeros(2)}
SERVER = {"m.w": torch.zeros(2, 3), "round": torch.zeros(1)}


def state(done: int = 2) -> RunState:
    figures = {
        "evaluations": [{"round": 1, "val_acc": 0.5, "test_loss": float("nan")}],
        "refused": [{"round": 0, "client": 2, "reason": "because"}],
        "participants": [[1, 2]] * done,
        "bytes_sent": 100, "turns": 4, "seconds": {"total": 1.5, "training": 1.0, "evaluation": 0.25},
    }  # fmt: skip
    clients = {1: {"x/a": torch.ones(2)}}
    return RunState(done, dict(PARAMS), dict(SERVER), dict(PARAMS), figures, 7, clients)


def resumes(folder: Path, config: Config) -> RunState | None:
    saved = load_checkpoint(folder, "digest", {})
    if saved is not None:
        check_fit(folder, saved, config, PARAMS, SERVER)
    return saved


def test_a_value_changed_by_hand_is_refused(tmp_path, short_config) -> None:
    save_checkpoint(tmp_path, state(), "digest", {"data": "d"})
    head = tmp_path / "state.json"
    whole = json.loads(head.read_text())
    assert resumes(tmp_path, short_config()).round == 2
    changes = [{"round": 1}, {"lines": 3}, {"config": "other"}, {"belongs": {}}, {"figures": {}}, {"digest": "0" * 64}]
    for change in changes:
        head.write_text(json.dumps(whole | change))
        with pytest.raises(ConfigError, match=r"damaged \(state\.json was changed"):
            resumes(tmp_path, short_config())
    head.write_text(json.dumps(dict(reversed(whole.items())), indent=3))  # the same content, written otherwise
    assert resumes(tmp_path, short_config()).round == 2


def test_any_json_at_any_place_is_one_of_our_errors(tmp_path, short_config) -> None:
    """Also where somebody has sealed it anew; what is accepted is a state of this run."""
    config = short_config()
    save_checkpoint(tmp_path, state(), "digest")
    head = tmp_path / "state.json"
    whole = json.loads(head.read_text())
    values: list[Any] = [
        None,
        True,
        -1,
        0,
        3,
        2.5,
        float("nan"),
        10**30,
        "",
        "x",
        "../x",
        [],
        [1],
        [[1]],
        {},
        {"a": 1},
    ]

    def places(value: Any, path: tuple = ()):
        yield path
        items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for name, item in items:
            yield from places(item, (*path, name))

    def changed(value: Any, path: tuple, new: Any) -> Any:
        if not path:
            return new
        copy = dict(value) if isinstance(value, dict) else list(value)
        if new is KeyError and len(path) == 1:
            del copy[path[0]]
        else:
            copy[path[0]] = changed(value[path[0]], path[1:], new)
        return copy

    refused = accepted = 0
    for path in places(whole):
        for new in [*values, KeyError]:
            if new is KeyError and not path:
                continue
            content = changed(whole, path, new)
            head.write_bytes(sealed(content) if isinstance(content, dict) else json.dumps(content).encode())
            try:
                resumes(tmp_path, config)
                accepted += 1
            except ConfigError as error:
                assert str(tmp_path) in str(error)
                refused += 1
            if not (tmp_path / "round-2.safetensors").is_file():  # a header that names no tensors has none
                save_checkpoint(tmp_path, state(), "digest")
    assert refused > 300 and accepted < refused
    for text in ("", "{", "[" * 100_000, "\ud800".encode("utf-8", "surrogatepass"), b"\xff\xfe", "9" * 5000):
        head.write_bytes(text if isinstance(text, bytes) else text.encode())
        with pytest.raises(ConfigError, match=r"damaged .*; remove that folder"):
            resumes(tmp_path, config)


@pytest.mark.parametrize(
    "spoilt",
    [
        {"params": {"w": torch.ones(2, 3)}},
        {"params": PARAMS | {"more": torch.ones(1)}},
        {"params": PARAMS | {"w": torch.ones(3, 2)}},
        {"params": PARAMS | {"w": torch.ones(2, 3, dtype=torch.float64)}},
        {"params": PARAMS | {"w": torch.full((2, 3), float("inf"))}},
        {"server": {}},
        {"best": {"w": torch.ones(2, 3)}},
        {"clients": {11: {}}},
        {"round": 3, "figures": state(3).figures},
        {"figures": state(1).figures},
    ],
)
def test_tensors_and_counts_that_do_not_fit_the_run(tmp_path, short_config, spoilt) -> None:
    save_checkpoint(tmp_path, dataclasses.replace(state(), **spoilt), "digest")
    with pytest.raises(ConfigError, match="does not fit this run"):
        resumes(tmp_path, short_config())


def test_tensors_that_no_header_names_go_at_resume(tmp_path, short_config) -> None:
    save_checkpoint(tmp_path, state(), "digest")
    for name in ("round-3.safetensors", "client-1-round-3.safetensors"):  # killed before the header
        (tmp_path / name).write_bytes(b"whole or not")
    (tmp_path / "thesis.txt").write_text("not ours")
    assert resumes(tmp_path, short_config()) is not None
    assert {path.name for path in tmp_path.iterdir()} == {
        "state.json", "round-2.safetensors", "client-1-round-2.safetensors", "thesis.txt",
    }  # fmt: skip


@pytest.fixture
def rows(tmp_path) -> FederatedData:
    """Three rows with images and a template of their own."""
    images = []
    for number in range(3):
        images.append(tmp_path / f"{number}.png")
        images[-1].write_bytes(bytes([number]) * 100_000)
    source = template_dir() / "digits_triage.yaml"
    (tmp_path / "mine.yaml").write_bytes(source.read_bytes())
    template = load_template(tmp_path / "mine.yaml")
    train = [Sample(str(i), str(image), f"text {i}", "(A) x", label=0) for i, image in enumerate(images)]
    manifest = Manifest(ALGORITHM, "aligned", {}, 0, "own", "", 0, {})
    return FederatedData(Dataset("own", "mine", train, [], []), template, {1: train}, manifest)


def _edit(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def test_a_checkpoint_belongs_to_the_content_of_template_rows_images_and_base(
    tmp_path, short_config, rows, monkeypatch
) -> None:
    config = short_config("aligned_a05", "fedmllm.template", tmp_path / "mine.yaml")
    folder = tmp_path / "run" / "checkpoint"
    save_checkpoint(folder, state(), identity(config, rows), belongings(config, rows))

    def now(data: FederatedData, settings: Config = config) -> dict | None:
        return read_head(folder, identity(settings, data), belongings(settings, data))

    def again(**changes: Any) -> FederatedData:
        return FederatedData(**{f.name: getattr(rows, f.name) for f in dataclasses.fields(rows)} | changes)

    assert now(again()) is not None
    with pytest.raises(ConfigError, match=r"another configuration: seed is 0 there and 7 here\. Use another expname"):
        now(again(), dataclasses.replace(config, seed=7))
    assert str(tmp_path) not in (folder / "state.json").read_text()  # it may be published
    raw = yaml.safe_load((tmp_path / "mine.yaml").read_text())
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(raw | {"closing": "Say it!"}))
    with pytest.raises(ConfigError, match="another prompt template"):
        now(again(template=load_template(tmp_path / "mine.yaml")))
    for place in (0, 50_000, 99_999):
        _edit(tmp_path / "1.png", place)
        with pytest.raises(ConfigError, match="other rows or images"):
            now(again())
        _edit(tmp_path / "1.png", place)
    moved = [dataclasses.replace(row, image=str(Path(row.image).rename(f"{row.image}.moved"))) for row in
             rows.dataset.train]  # fmt: skip
    assert now(again(dataset=dataclasses.replace(rows.dataset, train=moved))) is not None  # not the paths
    moved[0] = dataclasses.replace(moved[0], text="another")
    with pytest.raises(ConfigError, match="other rows or images"):
        now(again(dataset=dataclasses.replace(rows.dataset, train=moved)))
    (tmp_path / "0.png.moved").rename(tmp_path / "0.png")
    for number in (1, 2):
        (tmp_path / f"{number}.png.moved").rename(tmp_path / f"{number}.png")
    monkeypatch.setattr("fs_fedmllm.runs.belongings.base_fingerprint", lambda options: "f" * 64)
    with pytest.raises(ConfigError, match="another base"):
        now(again())
    monkeypatch.setattr(
        "fs_fedmllm.runs.belongings.base_fingerprint", lambda options: ""
    )  # a hub's files are not here yet
    assert now(again()) is not None


@pytest.mark.parametrize(
    "name", ["chat_template.jinja", "chat_template.json", "tokenizer_config.json", "processor_config.json"]
)
def test_another_chat_template_or_tokenizer_is_another_run(tmp_path, short_config, rows, name) -> None:
    """The weights are the same, what a row becomes is not."""
    base = Path(shutil.copytree(resolve_path("tiny"), tmp_path / "base"))
    config, folder = short_config("aligned_a05", "model.fedmllm.path", base), tmp_path / "run" / "checkpoint"
    save_checkpoint(folder, state(), identity(config, rows), belongings(config, rows))
    for other in ("README.md", "vocab.json", "tokenizer.model"):  # what nobody reads, and what was fetched meanwhile
        (base / other).write_text("Whatever.")
    assert read_head(folder, identity(config, rows), belongings(config, rows)) is not None
    before = (base / name).read_text() if (base / name).exists() else ""
    changed = json.dumps({**json.loads(before or "{}"), "padding": 1}) if name.endswith(".json") else f"{before}\n"
    (base / name).write_text(changed)
    with pytest.raises(ConfigError, match=r"another chat template, tokenizer or processor \(.*model\.fedmllm\.path"):
        read_head(folder, identity(config, rows), belongings(config, rows))


def test_resuming_is_said_at_once_and_the_bar_starts_there(tmp_path, short_config, rows, caplog) -> None:
    config = short_config("aligned_a05", "federate.total_round_num", 40)
    assert not announce(tmp_path / "run", config, rows)
    save_checkpoint(tmp_path / "run" / "checkpoint", state(), identity(config, rows), belongings(config, rows))
    with caplog.at_level(logging.WARNING):
        assert announce(tmp_path / "run", config, rows)
    assert "Resuming after round 2 of 40" in caplog.text
    bar = ConsoleProgress(config)
    bar.resumed(14)
    (task,) = bar._bar().tasks
    assert (task.completed, task.total) == (14, 80)
    bar.close()


def test_a_finished_run_of_that_name_is_named_and_what_differs(short_config, caplog) -> None:
    config = short_config("cross_i3t7", "expname", "mine")

    def finish(path: Path, finished: Config) -> None:
        folder = RunFolder(path, finished)
        folder.write_config()
        folder.write_json("results.json", {})

    def says(wanted: Config) -> str:
        caplog.clear()
        with caplog.at_level(logging.WARNING), claimed(wanted) as folder:
            (said,) = [record.getMessage() for record in caplog.records]
            assert said.endswith(f"This one goes to {folder.path}.")
        return said

    base = Path(config.outdir) / "mine"
    finish(base, config)
    assert f"{base} holds a finished run of this very configuration, whose results stand" in says(config)
    faster = dataclasses.replace(config, fedmllm=dataclasses.replace(config.fedmllm, workers=3, checkpoint_every=9))
    assert "this very configuration" in says(faster)  # not what changes no number
    other = dataclasses.replace(config, seed=7)
    assert "another configuration (seed is 0 there and 7 here)" in says(other)
    finish(base.with_name("mine-2"), other)
    assert "mine-2 holds a finished run of this very" in says(other) and "mine holds a finished" in says(config)
    (base / "resolved_config.yaml").write_text("fedmllm: {gone: 1}")
    (base.with_name("mine-2") / "resolved_config.yaml").unlink()
    assert "finished run of another release" in says(config)


def test_a_terminal_has_a_bar_with_lines_above_it_and_a_file_plain_lines(short_config, monkeypatch) -> None:
    import io
    from types import SimpleNamespace

    from rich.console import Console

    from fs_fedmllm.runs import progress

    def seen(*, terminal: bool) -> str:
        stream = io.StringIO()
        bar = ConsoleProgress(short_config(), Console(file=stream, force_terminal=terminal, width=100))
        bar.evaluated(0, {"val_macro_f1": 0.25, "test_acc": 0.5})
        for index in range(2):
            for client in (1, 2):
                bar.trained(index, SimpleNamespace(client=client, log=SimpleNamespace(loss=1.25)))  # type: ignore[arg-type]
        bar.evaluated(2, {"val_macro_f1": 0.5, "test_acc": 0.75})
        bar.close()
        return stream.getvalue()

    told = seen(terminal=True)
    assert "round 2/2 client 2" in told and "4/4" in told and "loss 1.250" in told and "\x1b[" in told
    assert "zero-shot: val_macro_f1 0.2500, test_acc 0.5000" in told and "round 2: val_macro_f1 0.5000" in told
    lines = ["zero-shot: val_macro_f1 0.2500, test_acc 0.5000", "round 2: val_macro_f1 0.5000, test_acc 0.7500"]
    assert seen(terminal=False).splitlines() == lines
    monkeypatch.setattr(progress, "_LINE", -1.0)  # a minute later each time
    assert "round 2/2 client 1: 3 of 4 updates, loss 1.250" in seen(terminal=False)
    monkeypatch.setattr(progress, "shows_progress", lambda: False)
    assert seen(terminal=True) == seen(terminal=False) == ""


def test_metrics_that_were_edited_are_told_and_counted_anew(tmp_path, short_config, caplog) -> None:
    folder = RunFolder(tmp_path / "run", short_config("aligned_a05", "fedmllm.report_to", "[tensorboard]"))
    line = json.dumps({"kind": "round", "round": 0, "train_loss": 1.0}) + "\n"
    path = folder.path / "metrics.jsonl"
    path.write_text(line * 4)
    assert folder.keep_lines(3) == 3 and path.read_text() == line * 3 and not caplog.records
    for content in (line + "junk\n" + line + "[1]\n", line * 2 + '{"kind":', line + "\xe9\n" + line):
        path.write_text(content, encoding="latin-1")
        assert folder.keep_lines(4) == 2 and path.read_text() == line * 2
        assert "has 2 of the 4 lines that the run wrote to its checkpoint" in caplog.text
        caplog.clear()
    path.unlink()
    assert folder.keep_lines(1) == 0 and "has 0 of the 1 lines" in caplog.text
