"""The modules load through ``evaluate`` itself, in a process that is told to stay off the network."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from fs_fedmllm.evaluation.evaluate_modules import METRICS, metric_path
from fs_fedmllm.evaluation.metrics import MetricError

pytest.importorskip("evaluate")

SCRIPT = """
import json, socket
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
print(json.dumps([f1, auc, one, plain, kinds, both]))
"""


def test_the_modules_load_offline_and_agree_with_our_metrics(tmp_path):
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "HF_EVALUATE_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    f1, auc, one, plain, kinds, both = json.loads(done.stdout.splitlines()[-1])
    assert f1 == pytest.approx({"acc": 0.75, "macro_f1": (1 + 2 / 3 + 1) / 3, "weighted_f1": (1 + 4 / 3 + 1) / 4})
    assert auc == pytest.approx({"auc": 0.875, "auc_hard": 0.75})
    assert one == {"auc": None, "auc_hard": None}
    assert plain == pytest.approx({"acc": 2 / 3})
    assert kinds == pytest.approx({"acc": 2 / 3, "open_acc": 1.0, "closed_acc": 0.0})
    assert both["macro_f1"] == 1.0


def test_metric_path_names_what_there_is():
    assert all(metric_path(name).endswith(name) for name in METRICS)
    with pytest.raises(MetricError, match="macro_f1"):
        metric_path("rouge")
