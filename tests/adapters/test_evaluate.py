"""External validation: the figures of a run come out again, and those of other rows with all that belongs to them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from json_page import wrong
from short_runs import CONFIGS, SHORT

from fs_fedmllm import config as schema
from fs_fedmllm.cli import main
from fs_fedmllm.data.sample import Sample
from fs_fedmllm.evaluation.calibration import calibration, calibration_error, confusion
from fs_fedmllm.evaluation.predictions import Prediction, read_predictions
from fs_fedmllm.runs.simulation import run
from fs_fedmllm.scenarios.reading import named_groups, read_dataset
from fs_fedmllm.tools.adapters.predict import read_rows
from fs_fedmllm.tools.adapters.row_files import form_of
from fs_fedmllm.tools.adapters.taken_over import take_over
from fs_fedmllm.tools.adapters.trained_rows import trained_on

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
    assert wrong(told, "evaluate") == []
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
    """The adapter's prompts ask them where no others are named."""
    words = ["evaluate", str(folder / "adapter"), str(own), "groups=[hospital]",
             "--out", str(tmp_path / "out")]  # fmt: skip
    assert main([*words, "--by", "hospital"]) == 0
    printed = capsys.readouterr()
    said = printed.out
    assert "taken from the adapter's run, since nothing else was given: template digits_triage\n" in printed.err
    assert "None of the 30 shows what a training row of the run shows, or shares its image." in said
    assert "30 test rows of own: 18 show both, 6 image only, 6 text only" in said
    assert "Accuracy by hospital" in said and "Accuracy by modality" in said
    told = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert {name: own["rows"] for name, own in told["slices"]["hospital"].items()} == {"a": 20.0, "b": 10.0}
    for words_, what in (
        (["--by", "ward"], "no test row has that key. Keys here: hospital"),
        (
            ["--split", "val"],
            "has no val rows to evaluate on (splits with rows: test; --split names another than val)",
        ),
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
        and "over the 30 rows that have a label; none of the 30 shows what a training row of the run shows" in said.err
    )
    rows = [json.loads(line) for line in (own / "test.jsonl").read_text().splitlines()]
    for i, row in enumerate(rows):
        if i % 2:
            del row["label"]
    (own / "half.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["predict", str(folder / "adapter"), "--file", str(own / "half.jsonl")]) == 0
    said = capsys.readouterr()
    assert (
        "over the 15 of 30 rows" in said.err
        and "none of the 15 shows" in said.err
        and sum("right" in line for line in said.out.splitlines()) == 15
    )
    (own / "wrong.jsonl").write_text(json.dumps({"text": "x", "label": "no such class"}) + "\n")
    assert main(["predict", str(folder / "adapter"), "--file", str(own / "wrong.jsonl")]) == 2
    assert "is none of the options" in capsys.readouterr().err


WOUNDS = "question: Does the wound look infected?\noptions: ['no', 'yes']\n"
#: What the run's rows are called, and what more is said of them.
OPTIONS = "{template: wounds.yaml, columns: {image: photo, text: note, label: state}, groups: [ward], absent: ['NA'], "
OPTIONS += "image_root: photos, split: {val: 0.2, test: 0.2, together: patient}}"


def ward(root: Path, name: str, numbers: range, *, shade: int = 0, note: str = "note") -> Path:
    """Rows as a hospital writes them, two of every patient, with a picture each."""
    from PIL import Image

    (root / "photos").mkdir(parents=True)
    lines = ["photo,note,state,patient,ward"]
    for i in numbers:
        Image.new("L", (16, 16), color=3 * i + shade).save(root / "photos" / f"{i}.png")
        lines.append(
            f"{i}.png,{'NA' if i % 7 == 3 else f'{note} {i}'},{('no', 'yes')[i % 2]},p{i // 2},{'ab'[i % 3 == 0]}"
        )
    (root / name).write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of a hospital's own rows, which are beside it in ``mine``."""
    place = tmp_path_factory.mktemp("ward")
    (ward(place / "mine", "data.csv", range(40)) / "wounds.yaml").write_text(WOUNDS)
    words = [*SHORT, "data.type", "own", "data.root", str(place / "mine"), "fedmllm.data", OPTIONS, "data.splitter",
             "fedmllm_aligned", "data.splitter_args", "[{alpha: 5.0}]", "federate.client_num", "2",
             "federate.sample_client_num", "2", "outdir", str(place / "exp"), "expname", "wounds"]  # fmt: skip
    return run(schema.load(CONFIGS / "cross_i3t7.yaml", words))[1].path


def test_the_next_months_rows_are_read_as_those_of_the_run(mine: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    """Prompts, columns and groups of the run, as far as the new rows have them; and what of them was trained on."""
    monkeypatch.chdir(tmp_path)
    trained = ward(tmp_path / "same", "test.csv", range(6, 16))
    words = ["evaluate", str(mine), str(trained), "--out"]
    assert main([*words, "first", "--json", "--by", "ward"]) == 0
    printed = capsys.readouterr()
    told = json.loads(printed.out)
    assert wrong(told, "evaluate") == []
    assert told["taken_over"] == {
        "template": "wounds", "absent": ["NA"], "image_root": "photos", "groups": ["ward"],
        "columns": {"image": "photo", "text": "note", "label": "state"}, "keep_together": "patient",
    }  # fmt: skip
    assert "columns image: photo, text: note, label: state; groups ward; keep_together patient\n" in printed.err
    assert told["template"] == told["trained_with"] == "wounds" and told["data"]["presence"] == {"both": 9, "image": 1}
    assert set(told["slices"]["ward"]) == {"a", "b"}
    groups = {p.group for p in read_predictions(tmp_path / "first" / "predictions.jsonl")}
    assert groups == {f"p{i}" for i in range(3, 8)}
    # The run divided its rows by patients, so of these ten some were trained on, and their number is known.
    learnt = read_dataset(schema.load(mine / "resolved_config.yaml")).train
    seen = len({Path(row.image).name for row in learnt if row.image} & {f"{i}.png" for i in range(6, 16)})
    assert 0 < seen < 10 and told["trained_on"] == {"of": 10, "rows": seen, "image_rows": seen}
    page = (tmp_path / "first" / "evaluation.html").read_text()
    assert (
        f"{seen} of 10 rows show what a training row of the run shows, and {seen} share their image with one" in page
    )
    # What is given counts, and nothing of the run does in its place.
    (trained / "other.yaml").write_text("question: Is it dry?\noptions: ['no', 'yes']\n")
    given = [
        "template=other.yaml",
        "columns={image: photo, text: note, label: state}",
        "groups=[]",
        "data.splitter_args=[{}]",
    ]
    assert main([*words, "second", "--json", *given]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["template"] == "other" and told["taken_over"] == {"absent": ["NA"], "image_root": "photos"}


def test_all_columns_that_hold_rows_together_are_taken_over(tmp_path: Path) -> None:
    settings = {"data": {"type": "own"}, "fedmllm": {"data": {"split": {"together": ["patient", "study", "ward"]}}}}
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "resolved_config.yaml").write_text(json.dumps(settings))
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "test.csv").write_text("note,state,patient,study,ward\na,no,1,x,\nb,yes,1,y,w\n")
    own = take_over(str(tmp_path / "run"), tmp_path / "new", {})
    assert own.together == ("patient", "study")  # one row has no ward
    assert own.as_dict() == {"keep_together": ["patient", "study"]}
    together = {"splitter": "fedmllm_aligned", "splitter_args": [{"keep_together": ["patient", "study"]}]}
    config = schema.from_mapping({"data": {"type": "digits_triage", **together}, "federate": {"client_num": 2}})
    assert config.resampled_by == ("patient", "study") == config.kept_together
    assert set(named_groups(config)) == {"patient", "study"}


def test_rows_that_call_their_columns_otherwise_take_over_what_fits_them(mine: Path, tmp_path: Path, capsys) -> None:
    rows = [{"text": f"remark {i}", "label": "yes", "patient": f"q{i}" if i else None} for i in range(4)]
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["evaluate", str(mine / "adapter"), str(tmp_path / "plain"), "--out", str(tmp_path / "out"), "--json"]
    assert main(words) == 0
    told = json.loads(capsys.readouterr().out)
    # No such columns, and a row without a patient: neither is forced upon them.
    assert told["taken_over"] == {"template": "wounds", "absent": ["NA"]} and told["data"]["rows"] == 4
    assert told["trained_on"] == {"of": 4, "rows": 0, "image_rows": 0}


def test_a_file_says_how_many_of_its_rows_were_trained_on(mine: Path, tmp_path: Path, capsys) -> None:
    alike = ward(tmp_path / "alike", "rows.csv", range(40), note="another note")
    said = {}
    for name, file in (("same", mine.parents[1] / "mine" / "data.csv"), ("alike", alike / "rows.csv")):
        assert main(["predict", str(mine), "--file", str(file), "-q"]) == 0
        said[name] = capsys.readouterr().err.rsplit("; ", 1)[1].strip()
    count = len({n for r in json.loads((mine / "manifest.json").read_text())["clients"].values() for n in r["rows"]})
    assert said["same"] == (
        f"{count} of 40 rows show what a training row of the run shows, and {count} share their image with one: of "
        "what the adapter was trained on, figures say little"
    )
    # Of rows with the same pictures and other texts, those without a text are the same.
    found = trained_on(str(mine), read_rows(alike / "rows.csv", form_of(str(mine))))
    assert 0 < found.rows < count == found.image_rows and said["alike"] == found.said()


def test_where_trained_rows_are_not_known_it_is_said_why(mine: Path, tmp_path: Path, folder: Path) -> None:
    import shutil

    rows = [Sample(id="1", image=None, text="note 1", answer="")]
    assert "does not say which rows it was trained on" in trained_on("hub:owner/name", rows).said()
    shutil.copytree(mine / "adapter", tmp_path / "alone")
    assert "does not say which rows" in trained_on(str(tmp_path / "alone"), rows).unknown
    shutil.copytree(mine.parents[1], tmp_path / "moved")
    moved = tmp_path / "moved" / "exp" / "wounds"
    config = (moved / "resolved_config.yaml").read_text()
    (moved / "resolved_config.yaml").write_text(config.replace(str(mine.parents[1]), str(tmp_path / "moved")))
    assert trained_on(str(moved / "adapter" / "adapter_model.safetensors"), rows).unknown == ""
    with (tmp_path / "moved" / "mine" / "data.csv").open("a") as stream:
        stream.write("0.png,new,no,p9,a\n")
    assert trained_on(str(moved), rows).unknown == (
        "the files in data.root are no longer those that the run was trained on"
    )
    shutil.rmtree(tmp_path / "moved" / "mine")
    assert trained_on(str(moved), rows).unknown.startswith("the run's own rows cannot be read again")
    assert str(tmp_path) not in trained_on(str(moved), rows).said()  # it stands on a page that may be given away
    (moved / "manifest.json").write_text("{")
    assert trained_on(str(moved), rows).unknown.startswith("the run's own rows cannot be read again")
    (moved / "manifest.json").unlink()
    assert trained_on(str(moved), rows).unknown == "its clients did not tell the server which rows they have"
