"""Secure aggregation over gRPC between real processes, one of which is killed with its round's secrets."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from forks import Forked, Forks
from short_runs import REPOSITORY, SHORT
from waiting import LONG, free_port, wait_until

PROGRAM = Path(__file__).with_name("secure_process.py")
CLIENTS = (1, 2, 3)


@pytest.fixture
def started() -> Iterator[dict[int, Forked]]:
    processes: dict[int, Forked] = {}
    yield processes
    for process in processes.values():
        process.kill()
        process.wait(LONG)


@pytest.fixture
def begin(forks: Forks, tmp_path: Path) -> Callable[[int, list[str]], Forked]:
    def begin(client: int, words: list[str]) -> Forked:
        own = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
        return forks.start([PROGRAM, client, tmp_path, *words], tmp_path, own, tmp_path / f"log_{client}")

    return begin


def test_a_client_killed_in_its_turn_is_survived_and_comes_back(started, begin, tmp_path) -> None:
    words = [
        *SHORT, "federate.total_round_num", "2", "federate.client_num", "3", "federate.sample_client_num", "3",
        "data.splitter_args", "[{alpha: 5.0, image_clients: 1, text_clients: 2}]", "train.local_update_steps", "6",
        "fedmllm.privacy.secure_aggregation.enabled", "True",
        "fedmllm.network.address", f"127.0.0.1:{free_port()}", "fedmllm.network.insecure", "True",
        "fedmllm.network.turn_timeout", "300", "outdir", str(tmp_path),
        "eval.freq", "2",
    ]  # fmt: skip
    for client in (0, *CLIENTS):
        started[client] = begin(client, words)
    events = tmp_path / "client_3" / "events.jsonl"

    def in_its_turn() -> bool:
        lines = events.read_text().splitlines() if events.is_file() else []
        return any(e.get("phase") == "secure_turn" for e in map(json.loads, lines) if e["event"] == "task")

    wait_until(lambda: in_its_turn() or started[0].poll() is not None, says=(tmp_path / "log_0").read_text)
    started[3].send_signal(signal.SIGKILL)
    started[3].wait(LONG)
    started[3] = begin(3, words)
    assert started[0].wait(LONG) == 0, (tmp_path / "log_0").read_text()[-3000:]
    results = json.loads((tmp_path / "server" / "results.json").read_text())
    assert results["rounds"] == 2
    assert results["participants"][0] == [1, 2]  # its secrets died with it
    assert results["participants"][-1] == [1, 2, 3]  # and it is back
    assert all(started[client].wait(LONG) == 0 for client in CLIENTS)
