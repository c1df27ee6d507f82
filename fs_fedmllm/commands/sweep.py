"""``fs-fedmllm sweep``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fs_fedmllm.commands.counts import at_least
from fs_fedmllm.config.nearest import nearest
from fs_fedmllm.errors import ConfigError, printable
from fs_fedmllm.quoting import shell_word
from fs_fedmllm.shipped import find_shipped

if TYPE_CHECKING:
    from fs_fedmllm.tools.sweeps.grid import Cell

EXIT_FAILED_CELLS = 1
EXIT_INTERRUPTED = 130


def add(commands: Any) -> None:
    """Add ``sweep`` to the command line's grammar."""
    sweep = commands.add_parser("sweep", help="run the grid of a table file; the same command resumes it")
    sweep.add_argument("table", help="a table file, or the name of one that ships, e.g. tables/table4.yaml")
    sweep.add_argument("overrides", nargs="*", help="key=value or key value for every run, e.g. data.root=/data")
    sweep.add_argument("--out", help="folder of the sweep (default exp/sweeps/NAME)")
    sweep.add_argument("--workers", type=at_least(0), default=0,
                       help="runs at once (default: one per core, or one where an accelerator is used)")  # fmt: skip
    sweep.add_argument("--threads", type=at_least(1), default=1, help="CPU threads of a run (default 1)")
    sweep.add_argument("--only", action="append", default=[], metavar="AXIS=VALUE[,VALUE]",
                       help="only these cells, e.g. --only method=fedavg,local --only seed=0")  # fmt: skip
    sweep.add_argument("--figures", action="append", default=[], metavar="FILE",
                       help="a report.csv of this table from elsewhere: cells whose figures are all in it are not "
                       "run, and reports show them; may be given more than once")  # fmt: skip
    sweep.add_argument("--tiny", action="store_true",
                       help="try the table out: embedded model and data, a few steps, one seed")  # fmt: skip
    sweep.add_argument("--dry-run", action="store_true", help="list the cells and which are finished")
    sweep.set_defaults(function=_sweep)


def find_table(name: str) -> Path:
    """A table file by path, or one that ships with the package by name (``tables/table4.yaml``).

    Raises:
        ConfigError: there is no such file.
    """
    return find_shipped(name, "tables", "table")


def chosen(cells: list[Cell], words: list[str]) -> list[Cell]:
    """The cells that ``--only`` names; several words must all hold.

    Raises:
        ConfigError: a word names no axis, or a value that no cell has.
    """
    axes: dict[str, dict[str, None]] = {}
    for cell in cells:
        for axis, value in _places(cell).items():
            axes.setdefault(axis, {})[value] = None
    for word in words if cells else ():
        axis = max((axis for axis in axes if word.startswith(f"{axis}=")), key=len, default="")
        if not axis:
            raise ConfigError(f"--only {word}: write AXIS=VALUE, where the axis is one of {', '.join(axes)}.")
        values = word.removeprefix(f"{axis}=")
        wanted = [values] if values in axes[axis] else values.split(",")  # a name may hold a comma
        for value in wanted:
            if value not in axes[axis]:
                raise ConfigError(
                    f"--only {word}: no cell has {axis} {value!r}{nearest(value, list(axes[axis]))} "
                    f"There are {', '.join(axes[axis])}."
                )
        cells = [cell for cell in cells if _places(cell)[axis] in wanted]
    if axes and not cells:
        raise ConfigError(
            f"--only {' --only '.join(words)}: no cell has all of that. Several values of an axis stand in one "
            "--only, with commas between them."
        )
    return cells


def _places(cell: Cell) -> dict[str, str]:
    return {**cell.coordinates, "seed": str(cell.seed)}


def _sweep(args: argparse.Namespace) -> int:
    from fs_fedmllm.config import read_yaml
    from fs_fedmllm.rounds.cores import available_cores
    from fs_fedmllm.tools.sweeps import grid
    from fs_fedmllm.tools.sweeps.table_file import load_table

    path = find_table(args.table)
    table = load_table(path)
    every = grid.cells(table, args.overrides, tiny=args.tiny, beside=path.parent)
    cells = chosen(every, args.only)
    for key, values in grid.overridden(table, args.overrides).items():
        note = f"The override {key} replaces what the table sets for {', '.join(values)}; the names of these stay."
        print(printable(note), file=sys.stderr)
    out = Path(args.out) if args.out else Path("exp") / "sweeps" / (table.name + ("-tiny" if args.tiny else ""))
    from fs_fedmllm.files.atomic import write_atomically
    from fs_fedmllm.files.locks import locked
    from fs_fedmllm.tools.sweeps import figures_file, runner
    from fs_fedmllm.tools.sweeps.files import FIGURES, LOCK

    runner.refuse_other_table(out, table.name)
    known = figures_file.known_runs((cell.key, cell.seed, cell.coordinates) for cell in every)
    found = figures_file.gathered([Path(name) for name in args.figures], out / FIGURES, table, known)
    recorded = found.runs
    lacking = {key: names for cell in every if (key := cell.key) in recorded
               and (names := recorded[key].lacking(table, cell.coordinates))}  # fmt: skip
    elsewhere = recorded.keys() - lacking.keys()
    if args.dry_run:
        for cell in cells:
            here = runner.finished_here(out, cell)
            state = "finished" if here else "elsewhere" if cell.key in elsewhere else "to run"
            lacks = f" (its figures lack {', '.join(lacking[cell.key])})" if not here and cell.key in lacking else ""
            print(f"{state:<9}  {cell.key[:12]}  {cell.title}{lacks}")
        print(f"{len(cells)} cells, {len({cell.key for cell in cells})} different runs, in {out}")
        return 0
    workers = args.workers or (1 if any(cell.config.use_gpu for cell in cells) else available_cores())
    wanted = len({cell.key for cell in cells})
    if not wanted:
        raise ConfigError(f"{path} has no cell to run: every place of its grid is skipped, or is read off other runs.")
    out.mkdir(parents=True, exist_ok=True)
    with locked(out / LOCK, advice="Wait until that sweep has ended, or name another folder with --out."):
        runner.write_index(out, read_yaml(path), table.name, every, tiny=args.tiny)
        if args.figures:
            write_atomically(out / FIGURES, figures_file.kept_csv(table, found).encode())
        outcome = runner.run_sweep(out, cells, workers, threads=max(1, args.threads), elsewhere=elsewhere)
    away = f", {outcome.elsewhere} of them elsewhere" if outcome.elsewhere else ""
    table_of = f"fs-fedmllm report {shell_word(out)}"
    print(f"{outcome.finished} of {wanted} cells finished in {out}{away}; {table_of} makes the table.")
    for title, reason in outcome.failed.items():
        print(f"failed: {title}: {reason}")
    if outcome.interrupted:
        print("Interrupted; the same command resumes.")
        return EXIT_INTERRUPTED
    return 0 if outcome.finished == wanted else EXIT_FAILED_CELLS
