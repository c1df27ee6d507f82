"""Algorithms with state on the client, and rules over the round, inside FederatedScope: the embedded adapter."""

from __future__ import annotations

import json

import pytest
from short_runs import CONFIGS, SHORT

from fs_fedmllm import config as schema
from fs_fedmllm.runs.simulation import run

A = "fedmllm.aggregation."
THREE = ["federate.client_num", "3", "federate.sample_client_num", "3"]
THREE += ["federate.total_round_num", "3", "eval.freq", "3"]
RUNS = {
    "scaffold": ["federate.method", "scaffold", A + "lora", "frozen_a"],
    "feddyn_moon": ["federate.method", "feddyn", "fedmllm.regularizer.type", "moon"],
    "ranks_krum": [A + "lora", "exact", A + "ranks", "[2, 8, 4]", A + "outlier_factor", "50.0"],
}


@pytest.mark.parametrize("name", RUNS)
def test_the_adapter_is_that_of_the_embedded_engine(plugged, host, tmp_path, name) -> None:
    words = [*SHORT, *THREE, *RUNS[name]]
    done = host.run(
        "federatedscope/main.py", "--cfg", CONFIGS / "aligned_a05.yaml", *words, "outdir", tmp_path / "fs",
        "expname", "job", cwd=plugged,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    inside = json.loads((tmp_path / "fs" / "job" / "results.json").read_text())
    embedded, _ = run(schema.load(CONFIGS / "aligned_a05.yaml", [*words, "outdir", str(tmp_path / "embedded")]))
    assert inside["adapter_sha256"] == embedded["adapter_sha256"]
    assert inside["bytes_sent"] == embedded["bytes_sent"] and inside["refused"] == embedded["refused"] == []


def test_federatedscopes_own_robust_rules_name_ours(plugged, host, tmp_path) -> None:
    done = host.run(
        "federatedscope/main.py", "--cfg", CONFIGS / "aligned_a05.yaml", *SHORT, "aggregator.robust_rule",
        "trimmedmean", "outdir", tmp_path / "fs", "expname", "job", cwd=plugged,
    )  # fmt: skip
    assert done.returncode == 2 and "aggregator.robust_rule" in done.stderr
    assert "fedmllm.aggregation.rule (" in done.stderr and "trimmed_mean" in done.stderr
