"""Run a sweep's cells side by side, each in a process of its own; what is finished is left alone.

What is done is told by the files in the cells' folders alone, so a sweep that was killed at any moment goes on with
the same command: finished cells stand, the others resume from their checkpoints.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from tqdm import tqdm

from fs_fedmllm.config import Config, to_mapping
from fs_fedmllm.errors import FedMLLMError
from fs_fedmllm.files.atomic import write_atomically
from fs_fedmllm.files.untrusted import read_mapping, read_object
from fs_fedmllm.runs.provenance import commit
from fs_fedmllm.runs.verbosity import shows_progress
from fs_fedmllm.tools.sweeps.cell import AHEAD
from fs_fedmllm.tools.sweeps.files import (
    CONFIG,
    ENDED,
    INDEX,
    LOG,
    OTHER_RUN,
    WORKERS_LOG,
    cell_place,
    is_finished,
)
from fs_fedmllm.tools.sweeps.grid import Cell
from fs_fedmllm.version import VERSION

#: Lines of a failed cell's log that are shown.
_TAIL = 3


class SweepError(FedMLLMError):
    """A folder whose runs are not those of its cells."""


@dataclass
class Outcome:
    """What came of a sweep.

    Attributes:
        finished: cells that came to their end, those of earlier calls and elsewhere included, and those that diverged.
        elsewhere: those of them whose runs are not here.
        failed: cell -> why, of this call.
        interrupted: it was stopped before the last cell.
    """

    finished: int = 0
    elsewhere: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    interrupted: bool = False


def updates_of(config: Config) -> int:
    """Client updates of a run."""
    return config.updates_per_round * config.federate.total_round_num


def cell_folder(out: Path, cell: Cell) -> Path:
    """Where the cell's run lies or will lie: cells of the same content share a folder, whatever they are called."""
    return cell_place(out, cell.key, cell.folder)


def finished_here(out: Path, cell: Cell) -> bool:
    """Whether the cell's run lies here and came to its end.

    Raises:
        SweepError: what lies there is the run of another configuration, or what says so cannot be read.
    """
    folder = cell_folder(out, cell)
    path = folder / "results.json"
    path = path if path.is_file() else folder / ENDED
    if not path.is_file():
        return False
    told = read_mapping(
        path, SweepError, f"Put back the run's own, or move {folder} out of the sweep; the cell is then run."
    )
    if told.get("config_sha256", cell.key) != cell.key:
        raise SweepError(OTHER_RUN.format(folder=folder, key=cell.key[:12]))
    return True


def refuse_other_table(out: Path, name: str) -> None:
    """A folder takes one table.

    Raises:
        SweepError: it holds the sweep of another one, whose index, and so whose report, would be replaced.
    """
    there: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError):  # none yet, or a damaged one, which is written anew
        there = read_object(out / INDEX)
    if there.get("name", name) != name:
        raise SweepError(
            f"{out} (--out) holds the sweep of the table {there['name']!r}, and this one is {name!r}. Name another "
            f"folder, or, if the table was renamed, remove {out / INDEX}; runs that are finished stand."
        )


def write_index(out: Path, table: dict[str, Any], name: str, cells: Sequence[Cell], *, tiny: bool) -> None:
    """Write ``sweep.json``: the table as read, and which folder holds which cell. A report needs nothing else.

    Raises:
        SweepError: as :func:`refuse_other_table`.
    """
    refuse_other_table(out, name)
    index = {
        "version": VERSION,
        "commit": commit(),
        "name": name,
        "tiny": tiny,
        "table": table,
        "cells": [
            {
                "coordinates": dict(cell.coordinates),
                "seed": cell.seed,
                "key": cell.key,
                "folder": cell_folder(out, cell).name,
            }
            for cell in cells
        ],
    }
    write_atomically(out / INDEX, (json.dumps(index, indent=1) + "\n").encode())


def run_sweep(
    out: Path, cells: Sequence[Cell], workers: int, *, threads: int = 1, elsewhere: Collection[str] = ()
) -> Outcome:
    """Run what is not finished.

    Args:
        out: folder of the sweep.
        cells: in the order of execution.
        workers: processes at once.
        threads: CPU threads of each, where a configuration leaves it open.
        elsewhere: keys of cells that are finished on another machine.
    """
    return _Sweep(out, cells, threads, elsewhere).run(workers)


class _Sweep:
    def __init__(self, out: Path, cells: Sequence[Cell], threads: int, elsewhere: Collection[str] = ()):
        self.out = out
        self.elsewhere = elsewhere
        self.threads = threads
        self.cells = {cell.key: cell for cell in reversed(cells)}  # the same run once, named by its first place
        self.waiting = [self.cells[key] for key in dict.fromkeys(cell.key for cell in cells)]
        self.on_gpu = any(cell.config.use_gpu for cell in cells)
        self.outcome = Outcome()
        self.lock = threading.Lock()
        self.workers: set[subprocess.Popen[str]] = set()
        self.stopped = False
        self.bar: Any = None

    def run(self, workers: int) -> Outcome:
        total = sum(updates_of(cell.config) for cell in self.waiting)
        here = [cell for cell in self.waiting if finished_here(self.out, cell)]
        away = [cell for cell in self.waiting if cell not in here and cell.key in self.elsewhere]
        finished = [*here, *away]
        self.outcome.finished, self.outcome.elsewhere = len(finished), len(away)
        self.waiting = [cell for cell in self.waiting if cell not in finished]
        # Where nobody watches, a line a minute.
        pace = 0.5 if sys.stderr.isatty() else 60
        with tqdm(
            total=total, initial=sum(updates_of(cell.config) for cell in finished), unit="client update",
            file=sys.stderr, dynamic_ncols=True, mininterval=pace, maxinterval=max(10, pace),
            disable=not shows_progress(),
        ) as self.bar:  # fmt: skip
            self._describe()
            threads = [threading.Thread(target=self._work) for _ in range(max(1, min(workers, len(self.waiting))))]
            for thread in threads:
                thread.start()
            try:
                for thread in threads:
                    while thread.is_alive():
                        thread.join(0.2)
            except KeyboardInterrupt:
                self.outcome.interrupted = True
                self._stop()
                for thread in threads:
                    thread.join()
            self._describe()
        return self.outcome

    def _stop(self) -> None:
        with self.lock:
            self.stopped = True
            for worker in self.workers:
                assert worker.stdin is not None
                with contextlib.suppress(OSError, ValueError):
                    worker.stdin.close()  # its cell ends; the last checkpoint stands

    def _describe(self) -> None:
        failed = f", {len(self.outcome.failed)} failed" if self.outcome.failed else ""
        self.bar.set_description(f"cells {self.outcome.finished}/{len(self.cells)}{failed}", refresh=True)

    def _work(self) -> None:
        """A worker: one process that forks another for every cell."""
        worker: subprocess.Popen[str] | None = None
        while True:
            with self.lock:
                if self.stopped or not self.waiting:
                    break
                cell = self.waiting.pop(0)
            try:
                if worker is None or worker.poll() is not None:
                    worker = self._start()
                reason = self._run(cell, worker)
            except OSError as error:  # its folder cannot be written to, or no process can be started
                reason = f"{error.filename or self.out} cannot be written or run: {error.strerror or error}"
            except FedMLLMError as error:
                reason = str(error)
            with self.lock:
                if self.stopped and not is_finished(cell_folder(self.out, cell)):
                    break
                if reason:
                    self.outcome.failed[cell.title] = reason
                    self.bar.write(f"failed: {cell.title}: {reason}", file=sys.stderr)
                else:
                    self.outcome.finished += 1
                self._describe()
        if worker is not None:
            with contextlib.suppress(OSError):
                worker.communicate()  # closes its standard input, so it ends
            with self.lock:
                self.workers.discard(worker)

    def _start(self) -> subprocess.Popen[str]:
        with self.lock, (self.out / WORKERS_LOG).open("a", encoding="utf-8") as log:
            worker = subprocess.Popen(
                [sys.executable, "-m", "fs_fedmllm.tools.sweeps.cell", *([] if self.on_gpu else [AHEAD])],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
                env={**os.environ, "OMP_NUM_THREADS": str(self.threads)},
                start_new_session=True,  # Ctrl-C is the sweep's to handle
            )  # fmt: skip
            self.workers.add(worker)
        return worker

    def _run(self, cell: Cell, worker: subprocess.Popen[str]) -> str:
        """Run a cell; returns why it failed, or nothing."""
        folder = cell_folder(self.out, cell)
        folder.mkdir(parents=True, exist_ok=True)
        mapping = to_mapping(cell.config)
        mapping |= {"outdir": str(folder.parent), "expname": folder.name}
        mapping["fedmllm"]["workers"] = 1  # cells run side by side, not their clients
        write_atomically(folder / CONFIG, yaml.safe_dump(mapping, sort_keys=False).encode())
        (folder / LOG).write_text("", encoding="utf-8")  # of this try alone
        assert worker.stdin is not None
        status: int | None = None
        done = 0
        with contextlib.suppress(OSError, ValueError):  # the worker was ended, from outside or by Ctrl-C
            worker.stdin.write(f"{folder.resolve()}\n")
            worker.stdin.flush()
            for updates, exited in self._told(worker):
                done, status = done + updates, exited
                with self.lock:
                    self.bar.update(updates)
        with self.lock:
            self.bar.update(updates_of(cell.config) - done)
        if is_finished(folder):
            return ""
        lines = [line for line in (folder / LOG).read_text(encoding="utf-8", errors="replace").splitlines() if line]
        told = [number for number, line in enumerate(lines) if line.startswith("fs-fedmllm: ")]
        said = " / ".join(lines[told[-1] :] if status == 2 and told else lines[-_TAIL:])
        ended = "its worker was ended" if status is None else f"its process ended with status {status}"
        return said if status == 2 and said else f"{ended}. {said}".strip()

    def _told(self, worker: subprocess.Popen[str]) -> Iterator[tuple[int, int | None]]:
        """(further client updates, exit status or None), until the cell has ended."""
        assert worker.stdout is not None
        for line in worker.stdout:
            try:
                told = json.loads(line)
            except ValueError:
                continue  # half a line of a cell that was killed
            if "ended" in told:
                yield 0, int(told["ended"])
                return
            yield int(told.get("updates", 0)), None
