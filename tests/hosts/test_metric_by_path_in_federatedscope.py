"""A metric by path inside FederatedScope: the embedded engine's figures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from short_runs import CONFIGS, SHORT

pytest.importorskip("evaluate", reason="NOT RUN: evaluate is not installed")

SAME = """
import datasets, evaluate

class Same(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(description="", citation="", inputs_description="", features=datasets.Features(
            {"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}))

    def _compute(self, predictions, references):
        same = [p == r for p, r in zip(predictions, references)]
        return {"same": sum(same) / len(same), "rows": len(same)}
"""


def test_the_figures_are_the_embedded_engines(plugged, host, tmp_path: Path) -> None:
    script = tmp_path / "same.py"
    script.write_text(SAME)
    last = {}
    for engine in ("embedded", "federatedscope"):
        words = ["-m", "fs_fedmllm", "run", CONFIGS / "aligned_a50.yaml", "--engine", engine, *SHORT,
                 "fedmllm.eval.metrics", f"[{script}]", "outdir", tmp_path / "exp", "expname", engine]  # fmt: skip
        done = host.run(*words, cwd=plugged)
        assert done.returncode == 0, done.stderr[-2000:]
        last[engine] = json.loads((tmp_path / "exp" / engine / "results.json").read_text())["evaluations"][-1]
    assert last["federatedscope"] == last["embedded"]
    figures = last["embedded"]
    assert figures["test_same"] == figures["test_acc"] and figures["val_same"] == figures["val_acc"]
    assert figures["test_same_rows"] == figures["test_total"]
