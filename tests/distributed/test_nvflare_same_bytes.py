"""A real federation ends with the embedded engine's adapter, whatever is on the way: provisioned, mutual TLS."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("nvflare", reason="NOT RUN: the extra nvflare is not installed")

from nvflare_federation import HOSPITALS, JOB, Hospitals, hospitals

from fs_fedmllm import config as schema
from fs_fedmllm.errors import UpdateError
from fs_fedmllm.privacy import central
from fs_fedmllm.rounds.client import ClientSide
from fs_fedmllm.rounds.client_update import ClientUpdate
from fs_fedmllm.runs.simulation import run

WORDS = ["train.local_update_steps", "2", "fedmllm.eval.limit", "2", "federate.total_round_num", "2", "eval.freq", "2"]
#: By name: what is set, and who took part in the last round.
RUNS = {
    "compressed": (["fedmllm.compression.upload", "int8"], [1, 2, 3]),
    "dp": (["fedmllm.privacy.dp.noise_multiplier", "1.0", "fedmllm.privacy.dp.clip_norm", "0.1",
            "fedmllm.privacy.dp.delta", "0.01"], [1, 2, 3]),
    "secure_dropout": (["fedmllm.privacy.secure_aggregation.enabled", "True"], [1, 3]),
    "scaffold": (["federate.method", "scaffold", "fedmllm.regularizer.type", "none"], [1, 2, 3]),
    "fedyogi": (["federate.method", "fedyogi"], [1, 2, 3]),
}  # fmt: skip


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hospitals]:
    """Its processes run without noise, and one of them dies: see ``hooked/same_bytes.py``."""
    hooked = str(Path(__file__).resolve().parent / "hooked")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [hooked, os.environ.get("PYTHONPATH")])))
        patch.setenv("HOOK", "same_bytes")
        with hospitals(tmp_path_factory.mktemp("hospitals"), *WORDS) as made:
            yield made


def embedded(folder: Path, words: list[str], drops: bool, monkeypatch: pytest.MonkeyPatch) -> str:
    """The same on one machine: without noise, and perhaps with client 2 dropping out of round 1."""
    update = ClientSide.update

    def drops_out(self: ClientSide, client: int, round_index: int, *rest: object) -> ClientUpdate:
        if drops and (client, round_index) == (2, 1):
            raise UpdateError("it dropped out")
        return update(self, client, round_index, *rest)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(central, "add_noise", lambda mean, *rest: mean)
        patch.setattr(ClientSide, "update", drops_out)
        results, _ = run(schema.load(HOSPITALS, [*WORDS, *words, "outdir", str(folder)]))
    return str(results["adapter_sha256"])


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_the_adapter_is_that_of_one_machine(
    name: str, federation: Hospitals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words, last = RUNS[name]
    job = federation.job(name, *WORDS, *words)
    command = [sys.executable, "-m", "fs_fedmllm", "nvflare", "submit", str(job), "--admin", str(federation.admin)]
    done = subprocess.run([*command, "--follow"], text=True, capture_output=True, timeout=JOB, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("submitted") == 1  # a training process that dies ends no job
    results = federation.results(name)
    assert results["participants"] == [[1, 2, 3], last]
    assert results["adapter_sha256"] == embedded(tmp_path, words, last != [1, 2, 3], monkeypatch)
