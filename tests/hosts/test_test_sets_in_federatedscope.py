"""Further test sets inside FederatedScope: read, refused and scored as on the embedded engine."""

from __future__ import annotations

import json
from pathlib import Path

import yaml
from short_runs import CONFIGS, SHORT


def test_the_figures_are_the_embedded_engines(plugged, host, tmp_path: Path) -> None:
    raw = yaml.safe_load((CONFIGS / "cross_i3t7.yaml").read_text())
    raw.setdefault("fedmllm", {})["test_sets"] = {"panel": {"type": "digits_panel", "root": None, "options": {}}}
    file = tmp_path / "sets.yaml"
    file.write_text(yaml.safe_dump(raw))
    found = {}
    for engine in ("embedded", "federatedscope"):
        words = ["-m", "fs_fedmllm", "run", file, "--engine", engine, *SHORT, "outdir", tmp_path, "expname", engine]
        done = host.run(*words, cwd=plugged)
        assert done.returncode == 0, done.stderr[-2000:]
        found[engine] = json.loads((tmp_path / engine / "results.json").read_text())
        assert (tmp_path / engine / "predictions_panel.jsonl").is_file()
        assert "test set panel (16 of 360 rows): acc" in done.stdout
    embedded, federatedscope = found.values()
    assert embedded["test_sets"] == federatedscope["test_sets"]
    assert embedded["adapter_sha256"] == federatedscope["adapter_sha256"]
    raw["fedmllm"]["test_sets"] = {"test": {"type": "digits_panel"}}
    file.write_text(yaml.safe_dump(raw))
    done = host.run("-m", "fs_fedmllm", "run", file, "--engine", "federatedscope", cwd=plugged)
    assert done.returncode == 2 and "has the name of one of the run's own splits" in done.stderr
