"""Runs on the disk: listed with what they differ in, taken by every command that means one, and checked beforehand."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from short_runs import CONFIGS, SHORT

from fs_fedmllm.cli import main
from fs_fedmllm.files.locks import Lock, is_held
from fs_fedmllm.runs.listing import list_runs, run_folder_of

DECAY = "fedmllm.train.weight_decay=0.2"
PRESET = str(CONFIGS / "cross_i3t7.yaml")


@pytest.fixture(scope="module")
def exp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two finished runs, one that was interrupted after its first round, and one that stopped before it."""
    from fs_fedmllm.runs.session import Session

    folder = tmp_path_factory.mktemp("runs") / "exp"
    words = ["run", PRESET, "--engine", "embedded", *SHORT, f"outdir={folder}", "eval.freq=1"]
    assert main([*words, "expname=first"]) == 0
    assert main([*words, "expname=group/../x"]) == 2
    assert main([*words, "--dry-run", f"expname={'x' * 201}"]) == 2  # not after the model was loaded
    assert main([*words, f"outdir={folder}/below", "expname=second", "seed=3", DECAY]) == 0
    for name, method in (("resumable", "checkpoint"), ("stopped", "begin_round")):

        def interrupt(self: Session, of: str = method) -> None:
            getattr(Session, f"plain_{of}")(self)
            raise KeyboardInterrupt

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Session, f"plain_{method}", getattr(Session, method), raising=False)
            patch.setattr(Session, method, interrupt)
            assert main([*words, f"expname={name}", "train.optimizer.lr=0.001"]) == 130
    return folder


def test_runs_are_listed_with_status_figure_and_differences(exp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["runs", str(exp), "--json"]) == 0
    found = {Path(run["folder"]).name: run for run in json.loads(capsys.readouterr().out)}
    assert {name: run["status"] for name, run in found.items()} == {
        "first": "finished", "second": "finished", "resumable": "resumable", "stopped": "stopped",
    }  # fmt: skip
    assert [found[name]["done"] for name in ("first", "resumable", "stopped")] == [2, 1, 0]
    assert found["second"]["differs"] == {
        "seed": 3,
        "train.optimizer.lr": found["first"]["differs"]["train.optimizer.lr"],
        "fedmllm.train.weight_decay": 0.2,
    }
    assert found["stopped"]["differs"] == {"seed": 0, "train.optimizer.lr": 0.001, "fedmllm.train.weight_decay": 0.1}
    results = json.loads((exp / "first" / "results.json").read_text())
    assert found["first"]["best"] == results["best"][results["best_by"]] and found["stopped"]["best"] is None
    assert found["resumable"]["metric"] == "val_macro_f1" and found["resumable"]["best_round"] == 1
    assert main(["runs", str(exp)]) == 0
    table = capsys.readouterr().out
    assert "below/second" in table and "seed=3" in table and "1/2" in table and "outdir" not in table
    assert main(["runs", str(exp), "--status", "finished"]) == 0
    table = capsys.readouterr().out
    assert "seed=3" in table and "resumable" not in table and "train.optimizer.lr" not in table
    assert main(["runs", str(exp / "below" / "second")]) == 0 and "seed" not in capsys.readouterr().out
    assert main(["runs", str(exp / "absent")]) == 2


def test_a_run_that_goes_on_is_told_from_one_that_was_killed(exp: Path) -> None:
    lock = exp / "resumable" / "run.lock"
    assert not is_held(lock)
    code = (
        "import sys; from pathlib import Path; from fs_fedmllm.files.locks import Lock\n"
        "held = Lock(Path(sys.argv[1])); print('held', flush=True); sys.stdin.read(); import os; os._exit(1)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(CONFIGS.parent)},
    )  # fmt: skip
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    assert is_held(lock) and {run.folder.name: run.status for run in list_runs(exp)}["resumable"] == "running"
    process.communicate()
    assert lock.is_file() and not is_held(lock)
    Lock(lock).release()


def test_files_that_no_run_wrote_end_no_list(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, (name, text) in enumerate(
        [
            ("results.json", '{"best": 5, "rounds": "many", "best_by": []}'),
            ("results.json", "[]"),
            ("checkpoint/state.json", '{"round": "one"}'),
            ("metrics.jsonl", '{"kind": "evaluation", "round": 1, "val_loss": "low"}\n' * 2),
        ]
    ):
        folder = tmp_path / f"run{number}"
        (folder / "checkpoint").mkdir(parents=True)
        (folder / "resolved_config.yaml").write_text("eval: {best_res_update_round_wise_key: val_loss}\n")
        (folder / name).write_text(text)
    assert main(["runs", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert all(f"run{number}" in said for number in range(4))


def test_a_run_folder_is_taken_for_what_is_in_it(
    exp: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    run = exp / "first"
    assert main(["compare", str(run), str(run / "adapter_best"), "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["total"]["distance"] == 0 and f"the first adapter: {run / 'adapter_best'}" in said.err
    assert main(["compare", str(run), str(run / "adapter"), "--which", "last", "--json", "-q"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["total"]["distance"] == 0 and said.err == ""
    assert main(["compare", str(run / "adapter"), str(run / "adapter_best"), "--which", "last"]) == 2
    for place in (run, run / "adapter", run / "results.json"):
        assert main(["predict", str(place), "--text", "three"]) == 0
    assert main(["predict", str(run / "adapter"), "--which", "best", "--text", "three"]) == 2
    capsys.readouterr()
    push = ["push", "--dry-run", str(tmp_path / "release"), "--base-model", "a/b"]
    assert main([*push, str(run / "adapter"), "o/n"]) == 0
    assert main([*push, str(run / "adapter"), "o/n", "--which", "best"]) == 2
    assert "is the last round's adapter" in capsys.readouterr().err
    assert run_folder_of(run / "checkpoint" / "x") == run and run_folder_of(tmp_path) == tmp_path


def test_a_report_takes_all_runs_below_a_folder(exp: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["report", str(exp), "--out", str(tmp_path), "--no-curves"]) == 0
    said = capsys.readouterr()
    assert "left out:" in said.err and "resumable (resumable)" in said.err and "stopped (stopped)" in said.err
    text = (tmp_path / "report.md").read_text()
    assert "2 of 2 runs finished" in text and "## In what the runs differ" in text
    assert "Holm" not in text  # the runs were tested on other rows, so there is nothing to compare
    assert "| seed | 3 | 0 |" in text and "expname" not in text
    for part in (
        "## Time and bytes",
        "## Who holds which modality: first",
        "| first | 16<br>fedmllm.eval.limit | 400 |",
    ):
        assert part in text.replace("\\_", "_")
    assert main(["report", str(exp / "first" / "results.json"), "--no-curves"]) == 0
    page = (exp / "first" / "report" / "report.html").read_text()
    for part in ("Time and bytes", "Who holds which modality", "Test rows, and what they show"):
        assert part in page
    for word in ("Holm", "Δ", "p-value", "differ", "seeds;"):  # one run: nothing is tested against another
        assert word not in page
    assert main(["report", str(exp / "stopped")]) == 2


def test_the_closing_table_says_how_many_rows_were_tested_and_what_they_show() -> None:
    from fs_fedmllm.runs.console import test_rows_line as line

    some = {"evaluated": 16, "all": 400, "presence": {"both": 10, "image": 6}}
    assert line(some) == "test rows: 16 of 400 (fedmllm.eval.limit); 10 show both modalities, 6 show an image only"
    assert line({"evaluated": 4, "all": 4, "presence": {"text": 4}}) == "test rows: 4; 4 show a text only"
    assert line({}) == line({"evaluated": 0, "all": 0, "presence": {}}) == ""


def test_a_dry_run_says_what_it_checked_and_leaves_nothing(
    exp: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fs_fedmllm.models import loader

    monkeypatch.setattr(loader, "load_mllm", None)  # a dry run loads no model
    words = ["run", PRESET, "--engine", "embedded", "--dry-run", *SHORT]
    assert main([*words, f"outdir={tmp_path / 'new'}"]) == 0
    said = capsys.readouterr().out
    for part in (
        "ok  configuration: fedavg", "ok  packages", "ok  run folder", "2,400 training, 160 validation, 400 test rows",
        "16 are evaluated, of 400 (fedmllm.eval.limit): 16 show both", "val_macro_f1 picks the best round",
        "the run starts from the beginning", "an adapter of 73,728", "not checked: the model's weights",
    ):  # fmt: skip
        assert part in said
    assert not (tmp_path / "new").exists()
    before = sorted(exp.rglob("*"))
    assert (
        main([*words, f"outdir={exp}", "expname=resumable", "train.optimizer.lr=0.001", "eval.freq=1", "--json"]) == 0
    )
    told = json.loads(capsys.readouterr().out)
    assert told["passed"] and "the run resumes after round 1" in str(told) and sorted(exp.rglob("*")) == before
    mask = ["fedmllm.regularizer.type=adaptive", "fedmllm.regularizer.skip_layers=6"]
    bad = ["data.type=own", "data.root=/absent", "fedmllm.data={template: digits_triage}"]
    assert main([*words, *mask, *bad, "--json"]) == 2
    told = capsys.readouterr()
    failed = [check["what"] for check in json.loads(told.out)["checked"] if not check["passed"]]
    assert failed == ["data"] and "The run would be refused: data.root" in told.err
    assert main([*words, *mask]) == 2
    assert "NO  model: fedmllm.regularizer.skip_layers is 6" in capsys.readouterr().out
