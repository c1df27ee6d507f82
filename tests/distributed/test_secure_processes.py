"""Secure aggregation over gRPC between real processes, one of which is killed with its round's secrets."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from short_runs import REPOSITORY, SHORT

PROGRAM = Path(__file__).with_name("secure_process.py")
CLIENTS = (1, 2, 3)


@pytest.fixture
def started(tmp_path: Path) -> Iterator[dict[int, subprocess.Popen[str]]]:
    processes: dict[int, subprocess.Popen[str]] = {}
    yield processes
    for process in processes.values():
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.wait(timeout=30)


def begin(client: int, folder: Path, words: list[str]) -> subprocess.Popen[str]:
    log = (folder / f"log_{client}").open("a")
    return subprocess.Popen(
        [sys.executable, str(PROGRAM), str(client), str(folder), *words],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}, stdout=log, stderr=log, text=True,
    )  # fmt: skip


def test_a_client_killed_in_its_turn_is_survived_and_comes_back(started, tmp_path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [
        *SHORT, "federate.total_round_num", "2", "federate.client_num", "3", "federate.sample_client_num", "3",
        "data.splitter_args", "[{alpha: 5.0, image_clients: 1, text_clients: 2}]", "train.local_update_steps", "6",
        "fedmllm.privacy.secure_aggregation.enabled", "True", "fedmllm.privacy.secure_aggregation.threshold", "0.6",
        "fedmllm.network.address", f"127.0.0.1:{port}", "fedmllm.network.insecure", "True",
        "fedmllm.network.turn_timeout", "300", "fedmllm.network.min_clients", "3", "outdir", str(tmp_path),
        "eval.freq", "2",
    ]  # fmt: skip
    for client in (0, *CLIENTS):
        started[client] = begin(client, tmp_path, words)
    events = tmp_path / "client_3" / "events.jsonl"

    def in_its_turn() -> bool:
        lines = events.read_text().splitlines() if events.is_file() else []
        return any(e.get("phase") == "secure_turn" for e in map(json.loads, lines) if e["event"] == "task")

    until = time.monotonic() + 500
    while not in_its_turn():
        assert time.monotonic() < until and started[0].poll() is None, (tmp_path / "log_0").read_text()[-3000:]
        time.sleep(0.05)
    started[3].send_signal(signal.SIGKILL)
    started[3].wait(timeout=30)
    started[3] = begin(3, tmp_path, words)
    assert started[0].wait(timeout=400) == 0, (tmp_path / "log_0").read_text()[-3000:]
    results = json.loads((tmp_path / "server" / "results.json").read_text())
    assert results["rounds"] == 2
    assert results["participants"][0] == [1, 2]  # its secrets died with it
    assert results["participants"][-1] == [1, 2, 3]  # and it is back
    assert all(started[client].wait(timeout=60) == 0 for client in CLIENTS)
