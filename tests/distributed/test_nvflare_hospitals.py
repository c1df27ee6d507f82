"""The hospitals of the example on NVFlare: provisioned, mutual TLS, real processes, and all that can be killed is."""

from __future__ import annotations

import json
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from short_runs import REPOSITORY
from waiting import LONG, wait_until

from fs_fedmllm import config as schema
from fs_fedmllm.runs.simulation import run

pytest.importorskip("nvflare", reason="NOT RUN: the extra nvflare is not installed")

EXAMPLE = runpy.run_path(str(REPOSITORY / "examples" / "hospitals" / "rehearsal_nvflare.py"))
ROUNDS = 8
WORDS = ["federate.total_round_num", str(ROUNDS), "eval.freq", str(ROUNDS), "train.local_update_steps", "3"]


def processes(*words: str) -> Iterator[int]:
    """Processes whose command line has all these words."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if all(word in line for word in words):
            yield int(folder.name)


def children(parent: int) -> Iterator[int]:
    """Processes that a process has started."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if int((folder / "stat").read_text().rpartition(")")[2].split()[1]) == parent:
                yield int(folder.name)
        except OSError:
            continue


@pytest.mark.slow
def test_hospitals_under_kills(tmp_path: Path) -> None:
    config = schema.load(REPOSITORY / "examples" / "hospitals" / "hospitals.yaml", WORDS)
    embedded, _ = run(schema.load(REPOSITORY / "examples" / "hospitals" / "hospitals.yaml",
                                  [*WORDS, "outdir", str(tmp_path / "embedded")]))  # fmt: skip
    port = free_port()
    root = tmp_path / "hospitals"
    kits = EXAMPLE["provision"](root, port, *WORDS)
    folder = kits["localhost"] / "exp" / "hospitals"

    def done() -> int:
        try:
            return int(json.loads((folder / "status.json").read_text())["round"])
        except (OSError, ValueError):
            return -1

    def job_process(site: str) -> list[int]:
        role = "worker_process" if site != "localhost" else "runner_process"
        return list(processes(role, str(kits[site])))

    with EXAMPLE["running"](kits, port):
        job = [sys.executable, "-m", "fs_fedmllm", "nvflare"]
        made = [*job, "job", str(REPOSITORY / "examples" / "hospitals" / "hospitals.yaml"), *WORDS, "--out"]
        subprocess.run([*made, str(root / "job"), "--sites", ",".join(EXAMPLE["SITES"])], check=True)
        words = [*job, "submit", str(root / "job"), "--admin", str(kits["study@coordinator.org"]), "--follow"]
        follower = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        try:
            wait_until(lambda: done() >= 1 or follower.poll() is not None, 4 * LONG)
            (worker,) = job_process("hospital-2")
            for child in children(worker):  # training is killed: no round, no job is lost
                os.kill(child, signal.SIGKILL)
            killed = done()
            wait_until(lambda: done() >= killed + 2 or follower.poll() is not None, 4 * LONG)
            assert job_process("hospital-2") == [worker]
            (worker,) = job_process("hospital-1")
            os.kill(worker, signal.SIGKILL)  # NVFlare ends the job; ours goes on
            wait_until(lambda: worker not in job_process("hospital-1"), LONG)
            wait_until(lambda: not job_process("localhost") or follower.poll() is not None, 4 * LONG)
            wait_until(lambda: bool(job_process("localhost")) or follower.poll() is not None, 4 * LONG)
            again = done()
            wait_until(lambda: done() >= again + 1 or follower.poll() is not None, 4 * LONG)
            (server,) = job_process("localhost")
            os.kill(server, signal.SIGKILL)
            said, _ = follower.communicate(timeout=8 * LONG)
        finally:
            follower.kill()
        assert follower.returncode == 0, said
    results: dict[str, Any] = json.loads((folder / "results.json").read_text())
    assert results["adapter_sha256"] == embedded["adapter_sha256"], said
    assert results["refused"] == []
    assert said.count("submitted") == 3, said
    assert config.federate.total_round_num == results["rounds"]


def free_port() -> int:
    import socket

    with socket.create_server(("localhost", 0)) as holder:
        return int(holder.getsockname()[1])
