"""Privacy inside FederatedScope: the same halves, ledger and report as on the embedded engine."""

from __future__ import annotations

import json

from short_runs import CONFIGS, SHORT

from fs_fedmllm import config as schema
from fs_fedmllm.runs.simulation import run

DP = ["fedmllm.privacy.dp.clip_norm", "0.05", "fedmllm.privacy.dp.noise_multiplier", "2.0"]


def test_differential_privacy_in_federatedscope(plugged, host, tmp_path) -> None:
    job = ["-m", "fs_fedmllm", "run", CONFIGS / "cross_i3t7.yaml", "--engine", "federatedscope", *SHORT]
    done = host.run(*job, *DP, "outdir", tmp_path, "expname", "job", cwd=plugged)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "privacy: epsilon" in done.stdout
    said = json.loads((tmp_path / "job" / "results.json").read_text())["privacy"]["differential_privacy"]
    assert said["releases"] == 2 and 0 < said["epsilon"] < 100
    assert len((tmp_path / "job" / "privacy.jsonl").read_text().splitlines()) == 2
    refused = host.run(*job, *DP, "fedmllm.privacy.dp.sampling", "poisson", cwd=plugged)
    assert refused.returncode == 2 and "fedmllm.privacy.dp.sampling is poisson" in refused.stderr


def test_a_replay_is_refused_where_its_numbers_of_clients_would_stop_the_run(plugged, host) -> None:
    job = ["-m", "fs_fedmllm", "run", CONFIGS / "cross_i3t7.yaml", "--engine", "federatedscope", *SHORT]
    refused = host.run(*job, "fedmllm.replay", "results.json", cwd=plugged)
    assert refused.returncode == 2 and "waits for a fixed one" in refused.stderr


def test_secure_aggregation_gives_the_adapter_of_the_embedded_engine(plugged, host, tmp_path) -> None:
    words = ["fedmllm.privacy.secure_aggregation.enabled", "True", "federate.sample_client_num", "3"]
    job = ["-m", "fs_fedmllm", "run", CONFIGS / "cross_i3t7.yaml", "--engine", "federatedscope", *SHORT, *words]
    done = host.run(*job, "outdir", tmp_path / "fs", "expname", "job", cwd=plugged)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((tmp_path / "fs" / "job" / "results.json").read_text())
    embedded, _ = run(schema.load(CONFIGS / "cross_i3t7.yaml", [*SHORT, *words, "outdir", str(tmp_path / "one")]))
    assert found["adapter_sha256"] == embedded["adapter_sha256"]
