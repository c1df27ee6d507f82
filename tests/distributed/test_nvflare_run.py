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

from fs_fedmllm.hosts.nvflare.simulate import run_simulated

PATH = CONFIGS / "aligned_a50.yaml"


def words(clients: int, *more: str) -> list[str]:
    sizes = ["federate.client_num", str(clients), "federate.sample_client_num", str(clients)]
    return [*SHORT, *sizes, "data.splitter_args", "[{alpha: 5.0}]", "fedmllm.eval.limit", "4", *more]


def check(folder: Path, clients: int) -> None:
    """Every client has the adapter that the server ended with."""
    final = (folder / "adapter" / "adapter_model.safetensors").read_bytes()
    for client in range(1, clients + 1):
        own = folder / f"client_{client}"
        assert json.loads((own / "status.json").read_text())["doing"] == "finished"
        assert (own / "adapter" / "adapter_model.safetensors").read_bytes() == final


def test_one_site_ends_with_the_embedded_adapter(tmp_path: Path) -> None:
    """The smallest run of NVFlare's real processes: a server, and a site with two clients."""
    given = words(2, "federate.total_round_num", "1", "eval.freq", "1")
    embedded, _ = run(schema.load(PATH, [*given, "outdir", str(tmp_path / "embedded")]))
    raw = schema.given_mapping(PATH, [*given, "outdir", str(tmp_path / "nvflare")])
    results, folder = run_simulated(schema.from_mapping(raw), raw, PATH, sites=1)
    assert results["adapter_sha256"] == embedded["adapter_sha256"]
    assert (results["refused"], results["participants"]) == ([], [[1, 2]])
    check(folder, 2)


@pytest.mark.slow
def test_three_sites_end_with_the_embedded_adapter(tmp_path: Path) -> None:
    given = words(4)
    embedded, _ = run(schema.load(PATH, [*given, "outdir", str(tmp_path / "embedded")]))
    told = ["outdir", str(tmp_path / "nvflare"), "expname", "run"]
    assert main(["run", str(PATH), "--engine", "nvflare", *given, *told]) == 0
    folder = tmp_path / "nvflare" / "run"
    assert json.loads((folder / "results.json").read_text())["adapter_sha256"] == embedded["adapter_sha256"]
    check(folder, 4)
