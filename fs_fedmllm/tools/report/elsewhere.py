"""What a report says of runs of which only the figures are here."""

from __future__ import annotations

from fs_fedmllm.tools.report.figures_only import FiguresOnly
from fs_fedmllm.tools.report.grids import Cell, Grid
from fs_fedmllm.tools.report.runs import Sheet
from fs_fedmllm.tools.sweeps.files import FIGURES

_NOTE = (
    "Of these runs there are the figures of a file (sweep --figures) and no more. Intervals and comparisons over test "
    "rows stand only where the rows of all their runs are here; curves, slices, missing rates, views and stand-ins "
    "are of the runs that are here."
)


def elsewhere_of(sheet: Sheet) -> list[Grid]:
    """Of each cell, how many runs are elsewhere; empty where none is."""
    body = []
    for row in sheet.rows():
        places = [sheet.at({**row, **column}) for column in sheet.columns()]
        away = [sum(isinstance(run, FiguresOnly) for run in runs) for runs in places]
        if any(away):
            cells = [
                Cell(f"{count} of {len(runs)}" if runs else "–") for count, runs in zip(away, places, strict=True)
            ]
            body.append((sheet.title(row), cells))
    head = [sheet.title(column) or "runs" for column in sheet.columns()]
    return [Grid("Runs whose files are elsewhere", head, body, _NOTE)] if body else []


def differing_of(sheet: Sheet) -> str:
    """A line about runs that are here and, with other figures, in the file too; empty where there are none."""
    if not sheet.differing:
        return ""
    named, more = "; ".join(sheet.differing[:3]), len(sheet.differing) - 3
    others = f" and {more} more" if more > 0 else ""
    return (
        f"Here, and with other figures in {FIGURES} too: {named}{others}. Another machine rounds sums otherwise. The "
        "tables take the runs that are here."
    )
