"""A sweep killed at any moment goes on to the same table; a cell that fails stops no other."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import short_table
from waiting import LONG, wait_until

from fs_fedmllm import cli
from fs_fedmllm.tools.sweeps import cell, grid, runner
from fs_fedmllm.tools.sweeps.files import WORKERS_LOG
from fs_fedmllm.tools.sweeps.table_file import load_table


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


def finished(out: Path) -> dict[Path, int]:
    """The cells' results below a sweep's folder, and when they were written."""
    return {path: path.stat().st_mtime_ns for path in out.glob("cells/*/results.json")}


#: Its cell is the first to run.
BROKEN = "broken: {set: {fedmllm.regularizer.type: adaptive, fedmllm.regularizer.skip_layers: 99}}"
WHY = "failed: broken, cross, seed 0: fs-fedmllm: fedmllm.regularizer.skip_layers is 99"


@dataclasses.dataclass(frozen=True)
class Undisturbed:
    """A sweep that nobody ended: of two cells that run, and of one that fails.

    Attributes:
        table: of the two cells.
        broken: of all three.
        out: the sweep's folder.
        code: exit code.
        said: what it said.
    """

    table: Path
    broken: Path
    out: Path
    code: int
    said: str

    def finished(self) -> dict[Path, int]:
        """The cells' results, and when they were written."""
        return finished(self.out)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Undisturbed:
    tables = []
    for more in ("", f"{BROKEN}\n      "):
        text = short_table.TABLE.replace("seeds: [0, 1]", "seeds: [0]")
        text = text.replace("fedavg: {title: FedAvg}", f"{more}fedavg: {{title: FedAvg}}")
        tables.append(short_table.write(tmp_path_factory.mktemp("sweep"), text))
    out = tables[0].parent / "out"
    with contextlib.redirect_stdout(io.StringIO()) as said:
        code = cli.main(["sweep", str(tables[1]), "--out", str(out), "--workers", "2"])
    return Undisturbed(*tables, out, code, said.getvalue())


def test_a_cell_that_fails_is_named_and_the_others_finish(undisturbed) -> None:
    assert undisturbed.code == 1
    assert "2 of 3 cells finished" in undisturbed.said and WHY in undisturbed.said
    assert len(undisturbed.finished()) == 2
    # Its workers are interpreters of their own: the engine's imports say nothing there.
    assert (undisturbed.out / WORKERS_LOG).read_text() == ""


def test_finished_cells_are_left_alone(undisturbed, capsys) -> None:
    table, out, before = str(undisturbed.table), str(undisturbed.out), undisturbed.finished()
    assert cli.main(["sweep", table, "--out", out]) == 0
    assert undisturbed.finished() == before
    assert "2 of 2 cells finished" in capsys.readouterr().out
    assert cli.main(["sweep", table, "--out", out, "--dry-run"]) == 0
    assert capsys.readouterr().out.count("finished  ") == 2


def test_killed_at_several_moments_and_resumed_gives_the_same_table(undisturbed, tmp_path) -> None:
    """Of three cells, one of which fails: each call tries it again, and only what is not finished."""
    table, expected, out = undisturbed.broken, undisturbed.out, tmp_path / "out"
    for how, rounds in ((signal.SIGKILL, 1), (signal.SIGINT, 5)):
        process = sweep(table, out)
        # Not after so many seconds but after so much progress, whatever the machine's pace.
        _until_it_has(rounds, out, process)
        process.send_signal(how)
        said, _ = process.communicate(timeout=LONG)
        if how == signal.SIGINT and process.returncode == 130:
            assert "the same command resumes" in said
        _until_workers_ended(process.pid)
    before = finished(out)
    process = sweep(table, out)
    said, _ = process.communicate(timeout=LONG)
    assert process.returncode == 1 and "2 of 3 cells finished" in said and WHY in said, said
    assert before.items() <= finished(out).items()
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


@pytest.mark.parametrize("on_gpu", [False, True])
def test_a_worker_imports_what_its_cells_need_unless_they_use_an_accelerator(on_gpu, tmp_path, monkeypatch) -> None:
    """Once, before it forks them; where an accelerator is used, each cell by itself."""
    cells = grid.cells(load_table(short_table.write(tmp_path)), ["use_gpu", str(on_gpu)])
    started: list[list[str]] = []
    monkeypatch.setattr(runner.subprocess, "Popen", lambda words, **how: started.append(words))
    runner._Sweep(tmp_path, cells, 1)._start()
    imported: list[str] = []
    monkeypatch.setattr(cell, "import_module", imported.append)
    monkeypatch.setattr(cell, "_line", lambda: "")  # no cell
    monkeypatch.setattr(cell.os, "dup2", lambda *streams: None)
    monkeypatch.setattr(sys, "argv", started[0][2:])
    assert cell.serve() == 0
    assert imported == ([] if on_gpu else ["fs_fedmllm.runs.simulation"])


def test_a_folder_takes_one_table(tmp_path: Path, capsys) -> None:
    """The other's index would go, and with it what a report of the folder shows."""
    out = tmp_path / "out"
    out.mkdir()
    runner.write_index(out, {"title": "one"}, "one", [], tiny=False)
    runner.write_index(out, {"title": "One"}, "one", [], tiny=True)  # the same table, edited
    before = (out / "sweep.json").read_bytes()
    table = short_table.write(tmp_path)
    (out / "figures.csv").write_text("of,the,other\n")
    for more in ([], ["--dry-run"]):
        assert cli.main(["sweep", str(table), "--out", str(out), *more]) == 2
        assert f"{out} (--out) holds the sweep of the table 'one', and this one is 'short'" in capsys.readouterr().err
    (out / "figures.csv").unlink()
    assert (out / "sweep.json").read_bytes() == before
    assert {path.name for path in out.iterdir()} <= {"sweep.json", "lock"}
    for damaged in ("{", "[]", ""):
        (out / "sweep.json").write_text(damaged)
        runner.write_index(out, {"title": "two"}, "two", [], tiny=False)
        assert json.loads((out / "sweep.json").read_text())["name"] == "two"
