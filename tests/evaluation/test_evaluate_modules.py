"""The modules load through ``evaluate`` itself, in a process that is told to stay off the network."""

from __future__ import annotations

import json
import os

import pytest
from short_runs import CONFIGS, SHORT

from fs_fedmllm import config as schema
from fs_fedmllm.evaluation.evaluate_modules import METRICS, metric_path
from fs_fedmllm.evaluation.metrics import MetricError
from fs_fedmllm.runs.simulation import run

pytest.importorskip("evaluate")

#: Data set -> the module that says its figures, and what of a line of predictions.jsonl it takes.
RUNS = {
    "digits_triage": ("macro_f1", ("acc", "macro_f1", "weighted_f1")),
    "digits_match": ("option_auc", ("auc", "auc_hard")),
    "digits_panel": ("vqa_accuracy", ("acc", "open_acc", "closed_acc")),
}
#: Its words are a module, a file of predictions and the positive option, for each run.
SCRIPT = """
import json, socket, sys
def refuse(*a, **k): raise AssertionError("the network was used")
socket.socket.connect = refuse
socket.getaddrinfo = refuse
import evaluate
from fs_fedmllm.evaluation.evaluate_modules import metric_path
f1 = evaluate.load(metric_path("macro_f1")).compute(predictions=[0, 1, -1, 2], references=[0, 1, 1, 2])
auc = evaluate.load(metric_path("option_auc")).compute(predictions=[-0.1, -2.0, -2.0, -3.0], references=[1, 1, 0, 0])
one = evaluate.load(metric_path("option_auc")).compute(predictions=[-0.1, -2.0], references=[1, 1])
vqa = evaluate.load(metric_path("vqa_accuracy"))
answers = dict(predictions=["The X-ray.", "no", "two"], references=["x ray", "Yes", "2"])
plain, kinds = vqa.compute(**answers), vqa.compute(**answers, kinds=["open", "closed", "open"])
both = evaluate.combine([evaluate.load(metric_path("macro_f1"))]).compute(predictions=[0, 1], references=[0, 1])
def of_a_run(name, file, positive):
    rows = [row for row in map(json.loads, open(file, encoding="utf-8")) if row["shown"] == "both"]
    said = {
        "macro_f1": lambda: dict(predictions=[r["decision"] for r in rows], references=[r["label"] for r in rows]),
        "option_auc": lambda: dict(predictions=[r["log_probs"][positive] for r in rows],
                                   references=[int(r["label"] == positive) for r in rows],
                                   chosen=[r["decision"] == positive for r in rows]),
        "vqa_accuracy": lambda: dict(predictions=[r.get("answer", "") for r in rows],
                                     references=[r.get("reference", "") for r in rows],
                                     kinds=[r["kind"] for r in rows]),
    }
    return evaluate.load(metric_path(name)).compute(**said[name]())
words = sys.argv[1:]
runs = [of_a_run(words[i], words[i + 1], int(words[i + 2])) for i in range(0, len(words), 3)]
print(json.dumps([[f1, auc, one, plain, kinds, both], runs]))
"""


@pytest.fixture(scope="module")
def computed(tmp_path_factory, forks):
    """What ``evaluate`` computes of values made up here, and a run of each data set with what it computes of it."""
    folder = tmp_path_factory.mktemp("runs")
    runs, words = {}, []
    for dataset, (name, _) in RUNS.items():
        dealt = "[{by: kind}]" if dataset == "digits_panel" else "[]"
        config = schema.load(CONFIGS / "aligned_a50.yaml", [
            *SHORT, "outdir", str(folder), "data.type", dataset, "data.splitter_args", dealt,
            "federate.total_round_num", "1", "eval.best_res_update_round_wise_key", "test_acc",
            "fedmllm.eval.limit", "40", "expname", dataset,
        ])  # fmt: skip
        runs[dataset], made = run(config)
        words += [name, str(made.path / "predictions.jsonl"), str(runs[dataset]["positive"] or 0)]
    environment = {**os.environ, "HF_HOME": str(folder), "HF_HUB_OFFLINE": "1", "HF_EVALUATE_OFFLINE": "1"}
    done = forks.run(["-c", SCRIPT, *words], folder, environment)
    assert done.returncode == 0, done.stderr[-3000:]
    values, of_runs = json.loads(done.stdout.splitlines()[-1])
    return values, {dataset: (runs[dataset], own) for dataset, own in zip(RUNS, of_runs, strict=True)}


def test_the_modules_load_offline_and_agree_with_our_metrics(computed):
    f1, auc, one, plain, kinds, both = computed[0]
    assert f1 == pytest.approx({"acc": 0.75, "macro_f1": (1 + 2 / 3 + 1) / 3, "weighted_f1": (1 + 4 / 3 + 1) / 4})
    assert auc == pytest.approx({"auc": 0.875, "auc_hard": 0.75})
    assert one == {"auc": None, "auc_hard": None}
    assert plain == pytest.approx({"acc": 2 / 3})
    assert kinds == pytest.approx({"acc": 2 / 3, "open_acc": 1.0, "closed_acc": 0.0})
    assert both["macro_f1"] == 1.0


@pytest.mark.parametrize("dataset", RUNS)
def test_a_runs_figures_are_the_modules_on_its_predictions(dataset, computed):
    results, found = computed[1][dataset]
    assert found == {figure: results["evaluations"][-1][f"test_{figure}"] for figure in RUNS[dataset][1]}


def test_run_and_module_call_one_function(monkeypatch):
    """Change it, and both change."""
    import numpy as np

    from fs_fedmllm.evaluation import evaluator, metrics
    from fs_fedmllm.evaluation.evaluate_modules.macro_f1 import macro_f1
    from fs_fedmllm.evaluation.evaluate_modules.option_auc import option_auc
    from fs_fedmllm.evaluation.evaluate_modules.vqa_accuracy import vqa_accuracy

    assert macro_f1.label_metrics is evaluator.label_metrics is metrics.label_metrics
    assert vqa_accuracy.answer_metrics is evaluator.answer_metrics
    assert vqa_accuracy.right_answers is evaluator.right_answers
    assert option_auc.option_auc is metrics.option_auc
    monkeypatch.setattr(metrics, "option_auc", lambda *given: {"auc": 0.125, "auc_hard": 0.25})
    monkeypatch.setattr(metrics, "label_metrics", lambda *given: {"macro_f1": 0.5})
    numbers = metrics.choice_metrics(np.log([[0.25, 0.75], [0.5, 0.5]]), [1, 0], 1)
    assert (numbers["auc"], numbers["auc_hard"], numbers["macro_f1"]) == (0.125, 0.25, 0.5)


def test_metric_path_names_what_there_is():
    assert all(metric_path(name).endswith(name) for name in METRICS)
    with pytest.raises(MetricError, match="macro_f1"):
        metric_path("rouge")
