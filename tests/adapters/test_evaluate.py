"""External validation: the figures of a run come out again, and those of other rows with all that belongs to them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from short_runs import CONFIGS, SHORT

from fs_fedmllm import config as schema
from fs_fedmllm.cli import main
from fs_fedmllm.evaluation.calibration import calibration, calibration_error, confusion
from fs_fedmllm.evaluation.predictions import Prediction, read_predictions
from fs_fedmllm.runs.simulation import run

PRESET = str(CONFIGS / "cross_i3t7.yaml")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    words = [*SHORT, "fedmllm.eval.limit", "40", "fedmllm.eval.slices", "always"]
    words += ["train.optimizer.lr", "0.02", "outdir", str(tmp_path_factory.mktemp("run"))]
    return run(schema.load(CONFIGS / "cross_i3t7.yaml", words))[1].path


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """Thirty test rows of one's own, from two hospitals, some without an image or a text."""
    from PIL import Image

    root = tmp_path / "own"
    root.mkdir()
    rows = []
    for i in range(30):
        Image.new("L", (32, 32), color=8 * i).save(root / f"{i}.png")
        row = {"id": f"r{i}", "image": f"{i}.png", "text": f"note {i}", "label": i % 8, "hospital": "ab"[i % 3 == 0]}
        row |= {"image": None} if i % 5 == 1 else {"text": None} if i % 5 == 2 else {}
        rows.append(row)
    (root / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


def prediction(i: int, label: int, *shares: float) -> Prediction:
    decision = int(np.argmax(shares))
    return Prediction(str(i), "both", decision == label, label=label, decision=decision,
                      log_probs=tuple(float(np.log(share)) for share in shares))  # fmt: skip


def test_calibration_of_rows_worked_out_by_hand() -> None:
    rows = [prediction(0, 0, 0.8, 0.2), prediction(1, 1, 0.8, 0.2), prediction(2, 0, 0.6, 0.4), prediction(3, 1, 0.05, 0.95)]  # noqa: E501  # fmt: skip
    found = calibration(rows)
    assert found is not None
    # bins: two rows at 0.8, half of them right; one at 0.6, right; one at 0.95, right
    assert found["ece"] == pytest.approx((2 * 0.3 + 0.4 + 0.05) / 4)
    assert [(b["low"], b["rows"], b["acc"]) for b in found["bins"]] == [(0.5, 1, 1.0), (0.7, 2, 0.5), (0.9, 1, 1.0)]
    assert found["confidence"] == pytest.approx(np.mean([0.8, 0.8, 0.6, 0.95])) and found["acc"] == 0.75
    error = calibration_error(rows)
    assert error is not None
    # a resample that draws the first row alone
    assert error.weighted(np.array([[4.0, 0, 0, 0]]))[0] == pytest.approx(0.2)
    assert calibration([Prediction("a", "both", True)]) is None and calibration([]) is None
    table = confusion(rows, ("no", "yes"))
    assert table == {"options": ["no", "yes"], "columns": ["no", "yes"], "counts": [[2, 0], [1, 1]]}
    unread = Prediction("u", "both", False, label=0, decision=-1)
    assert confusion([*rows, unread], ("no", "yes"))["counts"] == [[2, 0, 1], [1, 1, 0]]  # type: ignore[index]


def test_the_figures_of_a_run_come_out_again(folder: Path, capsys, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["evaluate", str(folder), PRESET, "fedmllm.eval.limit=40", "--which", "last"]
    assert main([*words, "--json", "--by", "digit"]) == 0
    printed = capsys.readouterr()
    told = json.loads(printed.out)
    results = json.loads((folder / "results.json").read_text())
    last = results["evaluations"][-1]
    for name, value in told["figures"].items():
        assert name == "ece" or last[f"test_{name}"] == pytest.approx(value, abs=1e-6), name
    assert told["intervals"]["acc"] == results["intervals"]["test_acc"]
    assert told["classes"] == results["classes"] and told["adapter_sha256"] == results["adapter_sha256"]
    assert told["data"]["rows"] == 40 and told["data"]["all"] == 400 and told["data"]["presence"] == {"both": 40}
    assert sum(map(sum, told["confusion"]["counts"])) == 40 == sum(b["rows"] for b in told["calibration"]["bins"])
    assert sum(own["rows"] for own in told["slices"]["digit"].values()) == 40
    assert 0 < told["intervals"]["ece"]["low"] <= told["figures"]["ece"] <= 1
    assert json.loads((tmp_path / "evaluation" / "evaluation.json").read_text()) == {
        name: value for name, value in told.items() if name != "folder"
    }
    assert len(read_predictions(tmp_path / "evaluation" / "predictions.jsonl")) == 120
    page = (tmp_path / "evaluation" / "evaluation.html").read_text()
    for part in ("40 of 400", "image only", "Confusion matrix", "Calibration", "<svg", "default-src 'none'", "digit"):
        assert part in page
    assert "<script" not in page
    # again, into the same folder; other rows go into another
    assert main([*words, "-q"]) == 0
    said = capsys.readouterr()
    assert said.err == "" and "40 of 400 (fedmllm.eval.limit 40) test rows of digits_triage: 40 show both" in said.out
    assert main([*words, "fedmllm.eval.limit=20"]) == 2
    assert "name a folder with --out" in capsys.readouterr().err


def test_rows_of_ones_own_with_slices_by_hospital(folder: Path, own: Path, capsys, tmp_path: Path) -> None:
    words = ["evaluate", str(folder / "adapter"), str(own), "template=digits_triage", "groups=[hospital]",
             "--out", str(tmp_path / "out")]  # fmt: skip
    assert main([*words, "--by", "hospital"]) == 0
    said = capsys.readouterr().out
    assert "30 test rows of own: 18 show both, 6 image only, 6 text only" in said
    assert "Accuracy by hospital" in said and "Accuracy by modality" in said
    told = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert {name: own["rows"] for name, own in told["slices"]["hospital"].items()} == {"a": 20.0, "b": 10.0}
    for words_, what in (
        (["--by", "ward"], "no test row has that key. Keys here: hospital"),
        (["--split", "val"], "has no val rows to evaluate on (splits with rows: test)"),
    ):
        assert main([*words, *words_]) == 2
        assert what in capsys.readouterr().err


def test_a_file_of_labelled_rows_is_scored(folder: Path, own: Path, capsys) -> None:
    assert main(["predict", str(folder / "adapter"), "--file", str(own / "test.jsonl")]) == 0
    said = capsys.readouterr()
    lines = [json.loads(line) for line in said.out.splitlines()]
    right = [line["right"] for line in lines]
    assert len(right) == 30
    assert (
        f"score: acc {100 * np.mean(right):.1f} % [" in said.err
        and "over the 30 rows that have a label; rows that the run was trained on, if any, count too" in said.err
    )
    rows = [json.loads(line) for line in (own / "test.jsonl").read_text().splitlines()]
    for i, row in enumerate(rows):
        if i % 2:
            del row["label"]
    (own / "half.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["predict", str(folder / "adapter"), "--file", str(own / "half.jsonl")]) == 0
    said = capsys.readouterr()
    assert "over the 15 of 30 rows" in said.err and sum("right" in line for line in said.out.splitlines()) == 15
    (own / "wrong.jsonl").write_text(json.dumps({"text": "x", "label": "no such class"}) + "\n")
    assert main(["predict", str(folder / "adapter"), "--file", str(own / "wrong.jsonl")]) == 2
    assert "is none of the options" in capsys.readouterr().err
