"""``fs-fedmllm report``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any


def add(commands: Any) -> None:
    """Add ``report`` to the command line's grammar."""
    report = commands.add_parser("report", help="tables, tests and curves of a sweep, or of runs side by side")
    report.add_argument("folders", nargs="+", metavar="FOLDER",
                        help="folder of a sweep, run folders, or folders that contain runs; the others are tested "
                        "against the first")  # fmt: skip
    report.add_argument("--out", help="folder to write to (default FOLDER/report; report for a table file)")
    report.add_argument("--baseline", metavar="ROW", help="compare the other rows with this one")
    report.add_argument("--spread", action="store_true",
                        help="draw how figures spread at each level of the scenarios; FOLDER may be a table file too, "
                        "for the paper's figures alone")  # fmt: skip
    report.add_argument("--no-curves", action="store_true", help="leave the pictures out (they need matplotlib)")
    report.set_defaults(function=_report)


def _report(args: argparse.Namespace) -> int:
    import dataclasses

    from fs_fedmllm.errors import ConfigError, printable
    from fs_fedmllm.runs.listing import run_folder_of
    from fs_fedmllm.runs.verbosity import shows_progress
    from fs_fedmllm.tools.report.elsewhere import differing_of
    from fs_fedmllm.tools.report.page import write_report
    from fs_fedmllm.tools.report.runs import read_sheet

    folders = [Path(folder) for folder in args.folders]
    if args.spread:
        return _spread(args, folders)
    sheet = read_sheet(_runs_of(folders))
    if args.baseline:
        first = sheet.table.rows[0]
        known = [value.name for value in sheet.table.axis(first).values]
        if args.baseline not in known:
            raise ConfigError(f"--baseline {args.baseline}: the rows are {', '.join(known)}.")
        if all(sheet.table.place({first: args.baseline, **column}) == "zero_shot" for column in sheet.columns()):
            raise ConfigError(
                f"--baseline {args.baseline}: it has no runs of its own, so nothing can be compared with it over test "
                "rows or seeds. Name another row."
            )
        sheet = dataclasses.replace(sheet, table=dataclasses.replace(sheet.table, baseline={first: args.baseline}))
    if shows_progress() and (line := differing_of(sheet)):
        print(printable(line), file=sys.stderr)
    out = Path(args.out) if args.out else run_folder_of(folders[0]) / "report"
    for path in write_report(sheet, out, pictures=not args.no_curves):
        print(path)
    return 0


def _runs_of(places: list[Path]) -> list[Path]:
    """Run folders or the folder of a sweep, for what was named: a folder above runs stands for the finished ones.

    Those that are not finished are named on standard error.
    """
    from fs_fedmllm.errors import printable
    from fs_fedmllm.runs.listing import DIVERGED, FINISHED, list_runs, run_folder_of
    from fs_fedmllm.runs.verbosity import shows_progress
    from fs_fedmllm.tools.sweeps.files import INDEX

    found: list[Path] = []
    for place in places:
        folder = run_folder_of(place)
        if folder != place or not place.is_dir() or (place / INDEX).is_file():
            found.append(folder)
            continue
        below = sorted(list_runs(place), key=lambda run: run.folder)
        done = [run.folder for run in below if run.status in (FINISHED, DIVERGED)]
        found += done or [place]
        left = [f"{run.folder} ({run.status})" for run in below if run.folder not in done]
        if done and left and shows_progress():
            print(printable(f"left out: {', '.join(left)}"), file=sys.stderr)
    return list(dict.fromkeys(found))


def _spread(args: argparse.Namespace, places: list[Path]) -> int:
    from fs_fedmllm.errors import ConfigError
    from fs_fedmllm.shipped import find_shipped
    from fs_fedmllm.tools.report.spread import write_spread

    for given, name in ((args.baseline, "--baseline"), (args.no_curves, "--no-curves")):
        if given:
            raise ConfigError(f"{name} means nothing with --spread, which compares no rows and draws no curves.")
    places = [find_shipped(str(place), "tables", "table") if place.suffix == ".yaml" else place for place in places]
    out = Path(args.out) if args.out else Path("report") if places[0].is_file() else places[0] / "report"
    for path in write_spread(places, out):
        print(path)
    return 0
