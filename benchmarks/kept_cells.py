"""Cells of a benchmark, one for each arm and seed: each is kept in a file of its own, so that no cell runs twice."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any


def cell_file(folder: Path, arm: str, seed: int) -> Path:
    """Where a cell is kept.

    Args:
        folder: of the benchmark.
        arm: its name.
        seed: of the run.
    """
    return folder / f"{arm.replace(', ', '-').replace(' ', '_')}-s{seed}.json"


def kept_cells(folder: Path) -> list[dict[str, Any]]:
    """The cells that are there.

    Args:
        folder: of the benchmark.
    """
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


def command(description: str | None, run: Callable[[Path], None], table: Callable[[Path], None]) -> None:
    """The command line: ``run FOLDER`` or ``table FOLDER``.

    Args:
        description: of the benchmark.
        run: runs the cells that are not there yet.
        table: prints the table of those that are.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "table"))
    parser.add_argument("folder", type=Path)
    chosen = parser.parse_args()
    chosen.folder.mkdir(parents=True, exist_ok=True)
    {"run": run, "table": table}[chosen.what](chosen.folder)
