"""Metrics of the user's own, by path: what a run computes with them, and what is refused in a paragraph."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from short_runs import CONFIGS, SHORT

from fs_fedmllm import extras
from fs_fedmllm.cli import main
from fs_fedmllm.data.template_file import load_template
from fs_fedmllm.errors import ConfigError
from fs_fedmllm.evaluation.local_metrics import load_local_metrics
from fs_fedmllm.evaluation.metrics import MetricError
from fs_fedmllm.evaluation.predictions import Prediction, read_predictions
from fs_fedmllm.runs.simulation import run

pytest.importorskip("evaluate")

#: Share of the reference's words that the answer has; what it counts with lies beside it.
OVERLAP = """
import datasets, evaluate
from .words import words_of

class Overlap(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(description="", citation="", inputs_description="", features=datasets.Features(
            {"predictions": datasets.Value("string"), "references": datasets.Value("string")}))

    def _compute(self, predictions, references):
        shares = [len(words_of(p) & words_of(r)) / max(1, len(words_of(r))) for p, r in zip(predictions, references)]
        return {"overlap": sum(shares) / len(shares), "best": max(shares), "undefined": None, "nan": float("nan")}
"""
WORDS = "def words_of(text): return set(text.lower().split())\n"
PANEL = ("data.type", "digits_panel", "eval.best_res_update_round_wise_key", "val_acc",
         "data.splitter_args", "[{by: kind}]", "fedmllm.eval.slices", "always")  # fmt: skip


@pytest.fixture
def overlap(tmp_path: Path) -> Path:
    folder = tmp_path / "metrics" / "overlap"
    folder.mkdir(parents=True)
    (folder / "overlap.py").write_text(OVERLAP)
    (folder / "words.py").write_text(WORDS)
    return folder


def metric(tmp_path: Path, body: str = "return {'m': 0.5}", given: str = "string", wanted: str = "string",
           more: str = "", name: str = "m", base: str = "evaluate.Metric") -> str:  # fmt: skip
    """A small module, as a file; what its rows and ``_compute`` are is given."""
    file = tmp_path / f"{name}.py"
    file.write_text(
        f"import datasets, evaluate\nV = datasets.Value\nclass M({base}):\n    def _info(self):\n"
        "        return evaluate.MetricInfo(description='', citation='', inputs_description='',\n"
        f"            features=datasets.Features({{'predictions': V({given!r}), 'references': V({wanted!r})}}))\n"
        f"    def _compute(self, predictions, references):\n        {body}\n{more}"
    )
    return str(file)


def recount(predictions: list[Prediction], kind: str = "") -> float:
    shares = []
    for p in predictions:
        if kind in ("", p.kind):
            given, wanted = ((p.answer or "").lower().split(), (p.reference or "").lower().split())
            shares.append(len({*given} & {*wanted}) / max(1, len({*wanted})))
    return float(np.mean(shares))


@pytest.mark.parametrize("as_file", [False, True])
def test_a_run_computes_it_on_its_predictions(overlap: Path, as_file: bool, short_config, monkeypatch) -> None:
    """In every view and for each kind of question; a relative path begins where the command is started."""
    monkeypatch.chdir(overlap.parent.parent)
    path = "metrics/overlap/overlap.py" if as_file else "metrics/overlap"
    results, folder = run(short_config("aligned_a50", *PANEL, "fedmllm.eval.metrics", f"[{path}]"))
    figures, predictions = results["evaluations"][-1], read_predictions(folder.path / "predictions.jsonl")
    both = [p for p in predictions if p.shown == "both"]
    assert figures["test_overlap"] == pytest.approx(recount(both))
    assert figures["val_overlap_best"] <= 1 and figures["test_overlap_best"] <= 1
    for kind in ("open", "closed"):
        assert figures[f"test_{kind}_overlap"] == pytest.approx(recount(both, kind))
    for shown in {p.shown for p in predictions} - {"both"}:
        rows = [p for p in predictions if p.shown == shown]
        assert figures[f"test_{shown}_overlap"] == pytest.approx(recount(rows))
    assert not [name for name in figures if "undefined" in name or "nan" in name]
    assert not [name for name in results["intervals"] if "overlap" in name]
    recorded = [json.loads(line) for line in (folder.path / "metrics.jsonl").read_text().splitlines()]
    assert any(line.get("test_overlap") == figures["test_overlap"] for line in recorded)


def test_without_it_the_run_is_the_same(overlap: Path, short_config) -> None:
    plain = run(short_config("aligned_a50", "expname", "plain"))[0]
    more = run(short_config("aligned_a50", "expname", "more", "fedmllm.eval.metrics", f"[{overlap}]"))[0]
    assert more["adapter_sha256"] == plain["adapter_sha256"]
    last = more["evaluations"][-1]
    assert {k: v for k, v in last.items() if "overlap" not in k} == plain["evaluations"][-1]
    assert {"val_overlap", "test_overlap", "test_overlap_best"} <= last.keys()


def rows_of(template: str) -> list[Prediction]:
    if load_template(template).task == "vqa":
        return [Prediction("a", "both", True, "open", reference="two", answer="two"),
                Prediction("b", "both", False, "open", reference="yes", answer="no")]  # fmt: skip
    scores = (float(np.log(0.25)), float(np.log(0.75)))
    return [Prediction("a", "both", True, label=1, decision=1, log_probs=scores),
            Prediction("b", "both", False, label=0, decision=1, log_probs=scores)]  # fmt: skip


@pytest.mark.parametrize(
    ("template", "given", "wanted", "seen"),
    [
        ("digits_panel", "string", "string", [["two", "no"], ["two", "yes"]]),
        ("digits_match", "int32", "int64", [[1, 1], [1, 0]]),
        ("digits_match", "string", "string", [["OPTION1", "OPTION1"], ["OPTION1", "OPTION0"]]),
        ("digits_match", "float64", "int32", [[np.log(0.75)] * 2, [1, 0]]),
    ],
)
def test_what_a_metric_is_given_its_features_say(tmp_path: Path, template, given, wanted, seen) -> None:
    asked = load_template(template)
    if template == "digits_match" and given == "float64":
        seen = [
            [rows_of(template)[0].log_probs[asked.positive]] * 2,
            [int(label == asked.positive) for label in (1, 0)],
        ]
    seen = [[asked.options[int(x[-1])] if str(x).startswith("OPTION") else x for x in column] for column in seen]
    note = tmp_path / "seen.json"
    body = (
        f"import json; open({str(note)!r}, 'w').write(json.dumps([list(predictions), list(references)])); return {{}}"
    )
    (local,) = load_local_metrics([metric(tmp_path, body, given, wanted)], asked, scores=True)
    assert local.figures(rows_of(template)) == {}
    assert json.loads(note.read_text()) == seen


def test_several_references_are_one_in_a_list(tmp_path: Path) -> None:
    path = Path(metric(tmp_path, "return {'m': float(references == [['two'], ['yes']])}"))
    path.write_text(
        path.read_text().replace("'references': V('string')", "'references': datasets.Sequence(V('string'))")
    )
    (local,) = load_local_metrics([str(path)], load_template("digits_panel"), scores=True)
    assert local.figures(rows_of("digits_panel")) == {"m": 1.0}


DOWNLOADS = "    def _download_and_prepare(self, dl_manager):\n        pass\n"


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda at: str(at / "absent.py"), r"there is no file .*absent\.py"),
        (lambda at: f"{at}/absent", r"there is no file .*absent/absent\.py"),
        (lambda at: metric(at, base="object"), "defines none"),
        (lambda at: metric(at, more="class N(M):\n    pass\n"), "defines M, N; keep one"),
        (lambda at: metric(at, more=DOWNLOADS), "downloads files of its own"),
        (lambda at: metric(at, more="import a_package_that_is_not_there\n"), "cannot be imported .*ModuleNotFound"),
        (lambda at: metric(at, more="raise SystemExit(3)\n"), "cannot be imported .*SystemExit: 3"),
        (lambda at: metric(at, given="no_such_type"), "cannot be set up"),
        (
            lambda at: metric(at, given="int32", wanted="int32"),
            r"takes \{predictions: int, references: int\}.*as text",
        ),
    ],
)
def test_what_is_no_metric_of_these_rows_is_refused(tmp_path: Path, made, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as told:
        load_local_metrics([made(tmp_path)], load_template("digits_panel"), scores=True)
    assert "\n" not in str(told.value) and "fedmllm.eval.metrics" in str(told.value)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("return [0.5]", "gives list and no mapping"),
        ("return {'m': [0.5, 0.5]}", "which is not a name .* with a finite number"),
        ("return {'m': 'high'}", "'m': 'high'"),
        ("return {'m': True}", "'m': True"),
        ("return {'m': float('inf')}", "'m': inf"),
        ("return {'a b': 0.5}", "'a b': 0.5"),
        ("raise ValueError('a\\nb')", "fails on 2 rows: ValueError: a b"),
    ],
)
def test_a_wrong_output_is_refused(tmp_path: Path, body: str, said: str) -> None:
    (local,) = load_local_metrics([metric(tmp_path, body)], load_template("digits_panel"), scores=True)
    with pytest.raises(MetricError, match=said) as told:
        local.figures(rows_of("digits_panel"))
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("[./acc.py]", "which an evaluation already has"),
        ("[./one/mine.py, ./two/mine.py]", "which './one/mine.py' already has"),
        ("[./text_overlap.py]", "shown with one modality"),
        ("['./my metric.py']", "made of letters"),
        ("[overlap]", "or give a path"),
    ],
)
def test_a_name_that_is_taken_is_refused(given: str, said: str, short_config) -> None:
    with pytest.raises(ConfigError, match=said):
        short_config("aligned_a50", "fedmllm.eval.metrics", given)


def test_it_picks_no_best_round(overlap: Path, short_config) -> None:
    best = ("eval.best_res_update_round_wise_key", "val_overlap")
    with pytest.raises(ConfigError, match="no evaluation has a metric 'overlap'"):
        short_config("aligned_a50", "fedmllm.eval.metrics", f"[{overlap}]", *best)


def test_figures_that_a_run_has_are_refused(tmp_path: Path, federation) -> None:
    """``open.py`` that returns ``acc`` would write over the accuracy of open questions."""
    import dataclasses

    from fs_fedmllm.evaluation.evaluator import Evaluator

    path = metric(tmp_path, "return {'f1': 0.5}", "int32", "int32", name="macro")
    told = Evaluator(federation.encoder, dataclasses.replace(federation.evaluator.config, metrics=[path]))
    federation.mllm.adapter.load(federation.initial_state())
    with pytest.raises(MetricError, match="gives 'macro_f1', which the evaluation has already"):
        told.evaluate(federation.data.dataset.test[:4])


@pytest.mark.parametrize("missing", ["file", "package"])
def test_it_is_known_before_the_data_is_read(overlap, missing, tmp_path, capsys, monkeypatch) -> None:
    path = overlap if missing == "package" else tmp_path / "gone.py"
    if missing == "package":
        there = extras.is_installed
        monkeypatch.setattr(extras, "is_installed", lambda name: name != "evaluate" and there(name))
    words = ["run", str(CONFIGS / "aligned_a50.yaml"), "--engine", "embedded", *SHORT, "outdir", str(tmp_path / "exp")]
    assert main([*words, "fedmllm.eval.metrics", f"[{path}]"]) == 2
    said = capsys.readouterr().err
    assert ("pip install 'fs-fedmllm[evaluate]'" if missing == "package" else "there is no file") in said
    assert "Traceback" not in said and not (tmp_path / "exp").exists()


def test_a_client_of_several_sites_needs_no_metric(short_config, monkeypatch) -> None:
    config = short_config("aligned_a50", "fedmllm.eval.metrics", "[./absent.py]")
    extras.check_extras(config, evaluates=False)
    with pytest.raises(ConfigError, match="there is no file"):
        extras.check_extras(config)


def test_a_run_without_a_path_imports_no_evaluate(forks, tmp_path: Path) -> None:
    """The numbers of our own three modules are there without the package."""
    script = (
        "import sys; assert 'evaluate' not in sys.modules; sys.modules['evaluate'] = None\n"
        "from fs_fedmllm.cli import main\n"
        f"raise SystemExit(main({['run', str(CONFIGS / 'aligned_a50.yaml'), '--engine', 'embedded', *SHORT]!r}))\n"
    )
    done = forks.run(["-c", script], tmp_path, os.environ)
    assert done.returncode == 0, done.stderr[-2000:]
