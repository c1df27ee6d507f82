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


#: What to say of a run that lies in the folder of another cell.
OTHER_RUN = (
    "{folder} holds a finished run of another configuration than that of its cell, {key}. Put back the files of the "
    "cell's own run, or move the folder out of the sweep; the cell is then run."
)


def cell_place(out: Path, key: str, name: str) -> Path:
    """The folder of a cell's run, in the folder of a sweep.

    Args:
        out: folder of the sweep.
        key: of the cell's configuration, with which the folder's name ends.
        name: of the folder, where there is none yet; folders are renamed and copied, and a finished run counts.
    """
    found = sorted(path for path in (out / CELLS).glob(f"*-{key[:12]}") if path.is_dir())
    own = out / CELLS / name
    return next(iter(sorted(found, key=lambda path: (not is_finished(path), path != own))), own)
