"""The figures of runs as a CSV file, a line for each run and metric: what a report writes and a sweep goes on from.

It is what is kept of a sweep whose run folders are elsewhere. A line belongs to the cell whose key its ``config`` is.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fs_fedmllm.config.nearest import nearest
from fs_fedmllm.quoting import spreadsheet_cell
from fs_fedmllm.tools.sweeps.figures_line import (
    CUT,
    MADE_BY,
    Line,
    OtherTableError,
    axis_column,
    columns,
    figure_of,
    read_lines,
    shown,
)
from fs_fedmllm.tools.sweeps.table import SEED, Metric, Table

#: Figures of two runs are the same up to this: a spreadsheet keeps 15 digits.
_SAME = 1e-12
_OF_FOLDER = (
    "the sweep's folder keeps figures of a table with other axes. Name another folder with --out, or move this file "
    "away."
)
_TAKE_OUT = "Name the file of this table, or take the line out."


@dataclass(frozen=True)
class Recorded:
    """What a file says of a run.

    Attributes:
        lines: of the file.
        figures: (metric, evaluation) -> figure in the metric's own unit, and its line.
    """

    lines: list[Line]
    figures: dict[tuple[str, str], tuple[float, Line]]

    @property
    def made_by(self) -> dict[str, str]:
        """What made the run, as a report says it."""
        return {name: self.lines[0].cells[name] for name in MADE_BY}

    @property
    def seed(self) -> int:
        """Of the run."""
        return int(self.lines[0].cells[SEED])

    @property
    def diverged(self) -> int | None:
        """After how many rounds, or None: the run came to its last round."""
        return self.lines[0].diverged

    def figure(self, metric: str, at: str) -> float | None:
        """A figure; None if the file has none."""
        return self.figures[metric, at][0] if (metric, at) in self.figures else None

    def agrees(self, other: Callable[[str, str], float | None], diverged: int | None) -> bool:
        """Whether another run of the cell has the same figures, where both have one.

        Args:
            other: its figures, by metric and evaluation.
            diverged: after how many rounds it did.
        """
        return diverged == self.diverged and all(_agree(own, other(*name)) for name, (own, _) in self.figures.items())

    def lacking(self, table: Table, coordinates: Mapping[str, str]) -> list[str]:
        """The metrics of a place of the table that have no figure; a run that diverged lacks none."""
        if self.diverged is not None:
            return []
        at = table.place(coordinates)
        return [m.name for m in table.metrics_at(coordinates) if (m.name, at) not in self.figures]


@dataclass(frozen=True)
class Gathered:
    """What files say of a table's cells.

    Attributes:
        runs: key of a cell -> its run.
        others: lines that the sweep's folder keeps and that are of cells or metrics that the table had once.
    """

    runs: dict[str, Recorded] = field(default_factory=dict)
    others: list[Line] = field(default_factory=list)


@dataclass(frozen=True)
class Known:
    """A table's run, as far as a line of a file tells of it.

    Attributes:
        seed: of the run.
        places: where in the table it stands.
    """

    seed: int
    places: list[Mapping[str, str]] = field(default_factory=list)


def known_runs(cells: Iterable[tuple[str, int, Mapping[str, str]]]) -> dict[str, Known]:
    """Key -> what is known of the run, from the key, seed and place of every cell."""
    found: dict[str, Known] = {}
    for key, seed, place in cells:
        found.setdefault(key, Known(seed)).places.append(place)
    return found


def figures_csv(table: Table, rows: Iterable[Mapping[str, object]]) -> str:
    """Rows by column, as a file; :func:`axis_column` says where an axis's value stands."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, columns(table), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: spreadsheet_cell(value) for name, value in row.items()} for row in rows)
    return stream.getvalue()


def kept_csv(table: Table, found: Gathered) -> str:
    """What was read, as a file; what the folder kept of other cells is kept on."""
    lines = [*(line for run in found.runs.values() for line in run.lines), *found.others]
    return figures_csv(table, (line.cells for line in lines))


def gathered(given: Sequence[Path], kept: Path, table: Table, known: Mapping[str, Known]) -> Gathered:
    """What the files say of the cells' runs.

    Args:
        given: files of this table, all of whose lines must be of its cells and metrics.
        kept: in a sweep's folder, if it is there; as runs there, its lines may be of cells that the table had once.
        table: whose figures they are.
        known: key -> run of the table's cells.

    Raises:
        figures_line.FiguresError: a file means nothing, or two lines are at odds; the message names line, column
            and remedy.
    """
    found = Gathered()
    for path in [*given, *([kept] if kept.is_file() else [])]:
        advice = _OF_FOLDER if path is kept else "take such a file, or none."
        for line in read_lines(path, table, advice):
            try:
                metric, at = _read_off(line, table)
                key = _key(line, known, table)
            except OtherTableError:
                if path is kept:
                    found.others.append(line)
                    continue
                raise
            figure = figure_of(line, metric, at)
            _add(found.runs.setdefault(key, Recorded([], {})), line, (metric.name, at), figure, table)
    return found


def _add(run: Recorded, line: Line, name: tuple[str, str], figure: float | None, table: Table) -> None:
    """A further line of a cell. A second run of it, of another file, must have the same figures, and the first stands.

    Raises:
        FiguresError: it has another figure, or is of another run in the same file.
    """
    first = run.lines[0] if run.lines else line
    other = next((column for column in MADE_BY if line.cells[column] != first.cells[column]), None)
    if other is not None and (line.path == first.path or line.diverged != first.diverged):
        raise line.wrong(
            other,
            f"{shown(line.cells[other])}, but {shown(first.cells[other])} in {first.where}: two runs of the same "
            f"cell ({_title(line, table)}). Keep the lines of one.",
        )
    if figure is not None:
        known, before = run.figures.get(name, (figure, line))
        if not _agree(known, figure):
            raise line.wrong(
                "value",
                f"{shown(line.cells['value'])}, but {shown(before.cells['value'])} in {before.where}: two values of "
                f"{name[0]} of the same cell ({_title(line, table)}). Keep one.",
            )
        if other is None:
            run.figures.setdefault(name, (figure, line))
    if other is None and all(line.cells != known.cells for known in run.lines):
        run.lines.append(line)


def _agree(one: float, other: float | None) -> bool:
    return other is None or math.isclose(one, other, rel_tol=_SAME)


def _read_off(line: Line, table: Table) -> tuple[Metric, str]:
    """Which metric a line is of, and at which evaluation."""
    place = line.place(table)
    for axis in table.axes:
        known = [value.name for value in axis.values]
        value = place[axis.name]
        if value not in known:
            raise line.wrong(
                axis_column(axis.name),
                f"{shown(value)} is no value of this table's{nearest(value, known)} {_TAKE_OUT}",
                OtherTableError,
            )
    metrics = {metric.name: metric for metric in table.metrics_at(place)}
    name = line.cells["metric"]
    if name not in metrics:
        raise line.wrong(
            "metric",
            f"{shown(name)} is none of this table's ({', '.join(metrics)}){nearest(name, metrics)} {_TAKE_OUT}",
            OtherTableError,
        )
    at = table.place(place)
    if line.cells["at"] not in ("", at):
        raise line.wrong(
            "at",
            f"{shown(line.cells['at'])}, where the table reads {at!r}: a figure of another evaluation. {_TAKE_OUT}",
            OtherTableError,
        )
    return metrics[name], at


def _key(line: Line, known: Mapping[str, Known], table: Table) -> str:
    """The key of a line's cell."""
    key, seed, folder = line.cells["config"], line.cells[SEED], line.cells["folder"]
    if key not in known:
        raise line.wrong(
            "config", f"{shown(key)} is no configuration of this table with these overrides. Give the overrides and "
            "the table that the file's runs had, or take the lines of this configuration out; its cell is then run.",
            OtherTableError,
        )  # fmt: skip
    if seed != str(known[key].seed):
        raise line.wrong(SEED, f"{shown(seed)}, where the configuration has {known[key].seed}. {CUT}")
    place = line.place(table)
    # What a zero-shot row shows is read off the runs of its column.
    axes = table.columns if table.place(place) == "zero_shot" else tuple(place)
    if not any(all(own[axis] == place[axis] for axis in axes) for own in known[key].places):
        said = "; ".join(", ".join(own.values()) for own in known[key].places)
        raise line.wrong(
            "config", f"{key[:12]}... is of {said}, and the line says {', '.join(place.values())}. A file that was "
            f"sorted by a part of its columns is so. {CUT}",
            OtherTableError,
        )  # fmt: skip
    if not re.fullmatch(r"[\w+. ()-]+", folder, re.ASCII) or not folder.endswith(f"-{key[:12]}"):
        raise line.wrong("folder", f"{shown(folder)} is not of this configuration, {key[:12]}. {CUT}")
    return key


def _title(line: Line, table: Table) -> str:
    return ", ".join([*(line.cells[axis_column(axis.name)] for axis in table.axes), f"{SEED} {line.cells[SEED]}"])
