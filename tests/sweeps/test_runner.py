"""A sweep killed at any moment goes on to the same table; a cell that fails stops no other."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import short_table
from waiting import LONG, wait_until

from fs_fedmllm import cli


def sweep(table: Path, out: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "fs_fedmllm.cli", "sweep", str(table), "--out", str(out), "--workers", "1", *words],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip


def figures(out: Path) -> dict[str, tuple]:
    found = {}
    for path in sorted((out / "cells").glob("*/results.json")):
        results = json.loads(path.read_text())
        predictions = (path.parent / "predictions.jsonl").read_text()
        lines = [json.loads(line) for line in (path.parent / "metrics.jsonl").read_text().splitlines()]
        turns = [line for line in lines if line["kind"] == "turn"]
        found[path.parent.name] = (
            results["adapter_sha256"], results["evaluations"], results["intervals"], predictions, turns
        )  # fmt: skip
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("sweep")
    table = short_table.write(folder, short_table.TABLE.replace("seeds: [0, 1]", "seeds: [0]"))
    assert cli.main(["sweep", str(table), "--out", str(folder / "out"), "--workers", "2"]) == 0
    return table, folder / "out"


def test_finished_cells_are_left_alone(undisturbed, capsys) -> None:
    table, out = undisturbed
    before = {path: path.stat().st_mtime_ns for path in out.glob("cells/*/results.json")}
    assert len(before) == 2
    assert cli.main(["sweep", str(table), "--out", str(out)]) == 0
    assert {path: path.stat().st_mtime_ns for path in out.glob("cells/*/results.json")} == before
    assert "2 of 2 cells finished" in capsys.readouterr().out
    assert cli.main(["sweep", str(table), "--out", str(out), "--dry-run"]) == 0
    assert capsys.readouterr().out.count("finished  ") == 2


def test_killed_at_several_moments_and_resumed_gives_the_same_table(undisturbed, tmp_path) -> None:
    table, expected = undisturbed
    out = tmp_path / "out"
    for how, rounds in ((signal.SIGKILL, 1), (signal.SIGINT, 5)):
        process = sweep(table, out)
        # Not after so many seconds but after so much progress, whatever the machine's pace.
        _until_it_has(rounds, out, process)
        process.send_signal(how)
        said, _ = process.communicate(timeout=LONG)
        if how == signal.SIGINT and process.returncode == 130:
            assert "the same command resumes" in said
        _until_workers_ended(process.pid)
    process = sweep(table, out)
    said, _ = process.communicate(timeout=LONG)
    assert process.returncode == 0, said
    assert figures(out) == figures(expected)


def _until_it_has(turns: int, out: Path, process: subprocess.Popen[str]) -> None:
    wait_until(lambda: _turns(out) >= turns or process.poll() is not None)


def _until_workers_ended(session: int) -> None:
    """They do so with a sweep that was killed."""
    wait_until(lambda: not _working(session))


def _turns(out: Path) -> int:
    return sum(path.read_bytes().count(b'"turn"') for path in out.glob("cells/*/metrics.jsonl"))


def _working(session: int) -> list[Path]:
    """The processes that a sweep left, by the session that was made for it."""
    working = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has just ended
            state, _, _, own = (process / "stat").read_text().rpartition(")")[2].split()[:4]
            if int(own) == session and state != "Z":
                working.append(process)
    return working


def test_a_cell_that_fails_is_named_and_the_others_finish(tmp_path, capsys) -> None:
    text = short_table.TABLE.replace("seeds: [0, 1]", "seeds: [0]").replace(
        'fedprox: {title: "Fed <Prox>", set: {fedmllm.regularizer.type: fedprox}}',
        "broken: {set: {fedmllm.regularizer.type: adaptive, fedmllm.regularizer.skip_layers: 99}}",
    )
    table = short_table.write(tmp_path, text)
    assert cli.main(["sweep", str(table), "--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().out
    assert "1 of 2 cells finished" in said
    assert "failed: broken, cross, seed 0: fs-fedmllm: fedmllm.regularizer.skip_layers is 99" in said
    # Tried again, and only that one.
    assert cli.main(["sweep", str(table), "--out", str(tmp_path / "out")]) == 1
    assert "1 of 2 cells finished" in capsys.readouterr().out
