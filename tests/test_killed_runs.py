"""Runs as processes: two in one folder, and one that is killed at any moment."""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from pathlib import Path

import pytest
from short_runs import CONFIGS, SHORT
from waiting import wait_until

from fs_fedmllm.files.atomic import remove_torn

KILLS = int(os.environ.get("FS_FEDMLLM_KILLS", "20"))


def command(folder: Path, name: str, *words: str) -> list[object]:
    return ["-m", "fs_fedmllm", "run", CONFIGS / "aligned_a05.yaml", "--engine", "embedded", *SHORT,
            "outdir", folder, *words, "expname", name]  # fmt: skip


def lines(folder: Path) -> list[dict]:
    """``metrics.jsonl`` without the times."""
    told = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if not name.endswith("seconds")} for line in told]


def test_two_runs_of_one_name_are_one_run_and_one_refusal(tmp_path, forks) -> None:
    first = forks.start(command(tmp_path, "one"), tmp_path, os.environ)
    wait_until(lambda: first.poll() is not None or (tmp_path / "one" / "run.lock").is_file())
    second = forks.run(command(tmp_path, "one"), tmp_path, os.environ)
    assert second.returncode == 2 and f"another process ({first.pid} on" in second.stderr
    assert "Traceback" not in second.stderr
    assert first.wait() == 0
    assert (tmp_path / "one" / "results.json").is_file() and not (tmp_path / "one" / "run.lock").exists()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("one")] == ["one"]


#: Stragglers, so that clients are in flight with old versions at every moment, and some come too late.
BUFFERED = ("federate.sample_client_num", "6", "fedmllm.async.buffer", "2", "fedmllm.async.max_staleness", "3",
            "fedmllm.async.seconds", "[1, 1, 1, 1, 2, 2, 2, 5, 5, [9, 1]]", "federate.method", "fedyogi")  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("kind", [("federate.method", "scaffold"), BUFFERED], ids=["scaffold", "asynchronous"])
def test_kill_nine_at_random_moments_changes_nothing(tmp_path, forks, kind) -> None:
    """The same adapter bytes and the same lines, and nothing half-written is left."""
    words = ("federate.total_round_num", "12", "eval.freq", "3", *kind)
    started = time.monotonic()
    assert forks.run(command(tmp_path, "whole", *words), tmp_path, os.environ).returncode == 0
    length = time.monotonic() - started
    folder, draw, killed = tmp_path / "killed", random.Random(), 0
    while killed < KILLS:
        process = forks.start(command(tmp_path, "killed", *words), tmp_path, os.environ, err=tmp_path / "err")
        time.sleep(draw.uniform(0, 0.8 * length))
        if process.poll() is not None:  # it came to its end before its kill
            assert process.poll() == 0, (tmp_path / "err").read_text()[-2000:]
            shutil.rmtree(folder)
            continue
        process.kill()
        process.wait()
        killed += 1
    done = forks.run(command(tmp_path, "killed", *words), tmp_path, os.environ)
    assert done.returncode == 0, done.stderr[-2000:]
    results = [json.loads((tmp_path / name / "results.json").read_text()) for name in ("killed", "whole")]
    for figure in ("adapter_sha256", "evaluations", "best", "participants", "bytes_sent", "refused", "async"):
        assert results[0].get(figure) == results[1].get(figure), figure
    assert lines(folder) == lines(tmp_path / "whole")
    assert remove_torn(folder, *(path for path in folder.iterdir() if path.is_dir())) == 0
    assert not (folder / "run.lock").exists() and not (folder / "checkpoint").exists()
