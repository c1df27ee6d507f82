"""Names of the files of a sweep."""

from __future__ import annotations

from pathlib import Path

#: In the sweep's folder.
CELLS = "cells"
INDEX = "sweep.json"
#: What `--figures` named: figures of cells whose runs are elsewhere.
FIGURES = "figures.csv"
WORKERS_LOG = "workers.log"
#: In the sweep's folder and in a cell's.
LOCK = "lock"
#: In a cell's folder, beside the files of its run.
CONFIG = "cell.yaml"
MADE_BY = "made_by.json"
LOG = "cell.log"
#: Written in place of results.json by a run that no client could go on with: it diverged.
ENDED = "ended.json"


def is_finished(folder: Path) -> bool:
    """Whether a cell's run came to its end; what says so is written last, and whole or not at all."""
    return (folder / "results.json").is_file() or (folder / ENDED).is_file()
