"""``--engine nvflare``: NVFlare's own processes on this machine end with the adapter of the embedded engine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from short_runs import CONFIGS, SHORT

from fs_fedmllm import config as schema
from fs_fedmllm.cli import main
from fs_fedmllm.runs.simulation import run

pytest.importorskip("nvflare", reason="NOT RUN: the extra nvflare is not installed")


@pytest.mark.slow
def test_the_simulator_ends_with_the_embedded_adapter(tmp_path: Path) -> None:
    """Two sites, three clients."""
    words = [*SHORT, "federate.client_num", "3", "federate.sample_client_num", "3"]
    words += ["data.splitter_args", "[{alpha: 5.0, image_clients: 1, text_clients: 2}]"]
    path = CONFIGS / "cross_i3t7.yaml"
    embedded, _ = run(schema.load(path, [*words, "outdir", str(tmp_path / "embedded")]))
    told = ["outdir", str(tmp_path / "nvflare"), "expname", "run"]
    assert main(["run", str(path), "--engine", "nvflare", *words, *told]) == 0
    folder = tmp_path / "nvflare" / "run"
    results = json.loads((folder / "results.json").read_text())
    assert results["adapter_sha256"] == embedded["adapter_sha256"]
    assert results["refused"] == []
    for client in (1, 2, 3):
        own = folder / f"client_{client}"
        assert json.loads((own / "status.json").read_text())["doing"] == "finished"
        final = (own / "adapter" / "adapter_model.safetensors").read_bytes()
        assert final == (folder / "adapter" / "adapter_model.safetensors").read_bytes()
