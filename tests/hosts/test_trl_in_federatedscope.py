"""Client updates by TRL's trainer inside FederatedScope: the embedded engine's adapter, and any field of SFTConfig."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from short_runs import CONFIGS, SHORT

pytest.importorskip("trl", reason="NOT RUN: trl is not installed")


def test_the_adapter_is_the_embedded_engines(plugged, host, tmp_path: Path) -> None:
    shas = {}
    for engine, *more in (
        ("embedded",),
        ("federatedscope",),
        ("federatedscope", "fedmllm.train.sft.neftune_noise_alpha", "5.0"),
    ):
        name = f"run{len(shas)}"
        words = ["-m", "fs_fedmllm", "run", CONFIGS / "cross_i3t7.yaml", "--engine", engine, *SHORT,
                 "fedmllm.train.backend", "trl", *more, "outdir", tmp_path, "expname", name]  # fmt: skip
        done = host.run(*words, cwd=plugged)
        assert done.returncode == 0, done.stderr[-2000:]
        shas[name] = json.loads((tmp_path / name / "results.json").read_text())["adapter_sha256"]
    assert shas["run0"] == shas["run1"] != shas["run2"]
