"""Publishing from inside FederatedScope: its server's session is the same."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hub_server import TOKEN, Hub
from short_runs import CONFIGS, REPOSITORY, SHORT

from fs_fedmllm.hosts.federatedscope.checkout import find_federatedscope

REPO = "someone/triage"


def test_federatedscope_s_server_publishes(hub: Hub, tmp_path: Path) -> None:
    checkout = find_federatedscope()
    if checkout is None:
        pytest.skip("NOT RUN: no FederatedScope checkout (set FEDERATEDSCOPE_HOME or clone it to ~/FederatedScope)")
    words = [*SHORT, "eval.freq", "1", "outdir", str(tmp_path / "exp"), "expname", "run"]
    words += ["fedmllm.hub.repo", REPO, "fedmllm.hub.push", "every", "fedmllm.hub.every", "1"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": TOKEN,
                    "HF_HUB_DISABLE_XET": "1", "PYTHONPATH": str(REPOSITORY), "PYTHONDONTWRITEBYTECODE": "1",
                    "FEDERATEDSCOPE_HOME": str(checkout)}  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "fs_fedmllm", "run", CONFIGS / "cross_i3t7.yaml", "--engine", "federatedscope", *words],
        env=environment, capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads(next((tmp_path / "exp").rglob("results.json")).read_text())
    assert [entry["round"] for entry in results["hub"]["published"]] == [1, 2] and not results["hub"]["failed"]
    repo = hub.repos[REPO]
    assert repo.private and len(repo.messages) == 3
    assert hashlib.sha256(repo.files()["adapter_model.safetensors"]).hexdigest() == results["adapter_sha256"]
    assert TOKEN not in done.stdout + done.stderr
    # In an interpreter of its own: what is imported, FederatedScope's log included, says nothing there.
    told = [line for line in done.stderr.replace("\r", "\n").splitlines() if line.strip()]
    assert told and all(line.startswith("round ") for line in told), told
