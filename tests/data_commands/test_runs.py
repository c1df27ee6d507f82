"""Whole runs from the command line on the real medical sets and on your own data, beside what a blind model gets."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from PIL import Image

from fs_fedmllm.config.overrides import TINY as PRESET_TINY
from fs_fedmllm.data.registry import load_dataset
from fs_fedmllm.evaluation.question_only import beside, question_only

#: Two rounds of two clients; the learning rate is one at which two steps can be seen.
SHORT = (
    *("--engine", "embedded", "federate.total_round_num", "2", "federate.method", "fedavg", "eval.freq", "2"),
    *("train.batch_or_epoch", "batch", "train.local_update_steps", "2", "train.optimizer.lr", "5.0e-3"),
    *("fedmllm.train.warmup_ratio", "0", "fedmllm.eval.slices", "never", "fedmllm.eval.limit", "24"),
)


def _evaluations(folder: Path) -> list[dict]:
    (path,) = folder.glob("*/results.json")
    return json.loads(path.read_text())["evaluations"]


def _is_a_vqa_result(figures: dict) -> None:
    kinds = [figures[f"test_{name}"] for name in ("acc", "open_acc", "closed_acc")]
    assert all(0 <= value <= 1 for value in kinds)
    assert min(kinds[1:]) <= kinds[0] <= max(kinds[1:])
    assert math.isfinite(figures["test_loss"])


@pytest.mark.parametrize("preset", ["cross_i3t7", pytest.param("hybrid_p60", marks=pytest.mark.slow)])
def test_a_medical_preset_runs_on_the_real_sets(cli, real_data, tmp_path, caplog, preset):
    """One of them in the suite, for the sets; that every preset resolves is in tests/test_presets.py."""
    data = ("data.root", real_data, "fedmllm.data", "{flashcards: medquad, max_repeats: 20}")
    code, said = cli("run", f"configs/medical/{preset}.yaml", "--tiny", *SHORT, *data, "outdir", tmp_path)
    assert code == 0, said
    before, after = _evaluations(tmp_path)
    assert (before["round"], after["round"]) == (0, 2)
    _is_a_vqa_result(after)
    assert after["test_loss"] < before["test_loss"]
    assert "rows were dropped: max_repeats is 20" in caplog.text  # what the data set warns of is told


def test_the_question_only_baseline_of_the_real_vqa_rad(real_data):
    rad = load_dataset("medical", real_data, {"flashcards": "medquad", "max_repeats": 20})
    figures = question_only(rad.train, rad.test)
    assert figures["closed_acc"] == pytest.approx(0.57, abs=0.02)
    assert figures["open_acc"] == pytest.approx(0.15, abs=0.03)
    kinds = [row.kind for row in rad.test]
    assert (kinds.count("open"), kinds.count("closed")) == (179, 272)


def test_baseline_of_rows_without_questions_is_empty():
    triage = load_dataset("digits_triage", "")
    assert question_only(triage.train[:50], triage.test[:50]) == {}


@pytest.mark.parametrize(
    ("scenario", "args"),
    [("cross", {"image_clients": 2, "text_clients": 2}), ("hybrid", {"p": 0.6}), ("aligned", {"by": "kind"})],
)
def test_your_own_data_runs(cli, own_config, own_vqa, tmp_path, scenario, args):
    code, said = cli("run", own_config(scenario, **args), *SHORT, "seed", "1")
    assert code == 0, said
    before, after = _evaluations(tmp_path / "exp")
    _is_a_vqa_result(after)
    assert after["test_loss"] < before["test_loss"]
    own = load_dataset("own", own_vqa, {"template": "medical"})
    baseline = question_only(own.train, own.test)
    assert baseline["closed_acc"] == 0.5  # "is it red?" cannot be answered unseen
    shown = beside(after, baseline).splitlines()
    assert [line.split()[0] for line in shown[1:]] == ["open", "closed", "overall"]
    assert shown[2].endswith("50.0 %")


@pytest.mark.slow
def test_table_6_is_one_sweep_on_the_real_annotations(cli, real_data, tmp_path) -> None:
    """Both halves and the zero-shot row from one training a cell; SLAKE's pictures are made up."""
    root = tmp_path / "data"
    (root / "slake").mkdir(parents=True)
    for name in ("vqa_rad", "medquad"):
        (root / name).symlink_to(real_data / name)
    test = json.loads((real_data / "slake" / "test.json").read_text())
    (root / "slake" / "test.json").write_text(json.dumps(test))
    for name in {row["img_name"] for row in test}:
        path = root / "slake" / "imgs" / name
        path.parent.mkdir(parents=True)
        Image.new("L", (32, 32), len(name) * 10).save(path)
    out = tmp_path / "out"
    words = ["--only", "level=cross_i5t5", "--only", "seed=0", "--only", "method=fedyogi", "--out", out, "--workers",
             "1", "data.root", root, "fedmllm.data", "{flashcards: medquad, max_repeats: 20}", *PRESET_TINY,
             *SHORT[2:], "federate.method", "fedyogi", "fedmllm.eval.max_new_tokens", "4"]  # fmt: skip
    code, said = cli("sweep", "tables/table6.yaml", *words)
    assert code == 0, said
    (cell,) = (out / "cells").iterdir()
    results = json.loads((cell / "results.json").read_text())
    slake = results["test_sets"]["slake"]
    assert (results["test_rows"]["all"], slake["test_rows"]["all"]) == (451, 2094)
    assert [len(part["evaluations"]) for part in (results, slake)] == [2, 2]
    assert {file.name for file in (cell / "zero_shot").iterdir()} == {"predictions.jsonl", "predictions_slake.jsonl"}
    code, _ = cli("report", out)
    page = (out / "report" / "report.md").read_text()
    assert code == 0 and "## SLAKE: exact match, overall" in page
    lines = page.split("## SLAKE: exact match, overall")[1].split("##")[0].splitlines()
    shown = {line.split("|")[1].strip(): line for line in lines if line.count("|") > 2}
    assert f"| {100 * slake['zero_shot']['test_acc']:.2f} |" in shown["Zero-shot"]
    assert f"| {100 * slake['evaluations'][-1]['test_acc']:.2f}<br>" in shown["FedYogi"]
