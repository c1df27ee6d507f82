"""The figures of runs as a CSV file, a line for each run and metric: what a report writes and a sweep goes on from.

It is what is kept of a sweep whose run folders are elsewhere. A line belongs to the cell whose key its ``config`` is.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fs_fedmllm.config.nearest import nearest
from fs_fedmllm.errors import FedMLLMError
from fs_fedmllm.files.untrusted import RECORDED, read_regular
from fs_fedmllm.quoting import plain_cell, spreadsheet_cell
from fs_fedmllm.tools.sweeps.table import SEED, Metric, Table

#: The columns that say what made a run.
MADE_BY = ("model", "profile", "version", "commit", "config", "manifest", "adapter", "folder")
#: The columns after the table's axes. The paper's figures are the table's, and not read.
_COLUMNS = (SEED, "metric", "value", "paper_mean", "paper_std", *MADE_BY)
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", re.ASCII | re.IGNORECASE)
#: In the column of the adapter.
_DIVERGED = "none (diverged after {} rounds)"
#: Figures of two runs are the same up to this: a spreadsheet keeps 15 digits.
_SAME = 1e-12
_CUT = "The file was cut off or edited: take it anew. With the line taken out, the cell is run."
_TAKE_OUT = "Name the file of this table, or take the line out."


class FiguresError(FedMLLMError):
    """A file of figures that cannot be taken up; the message names the file, the line and the column."""


class OtherTableError(FiguresError):
    """A line of a cell or a metric that the table does not have."""


@dataclass(frozen=True)
class Line:
    """A line of the file.

    Attributes:
        path, number: where it stands.
        cells: column -> text.
    """

    path: Path
    number: int
    cells: Mapping[str, str]

    @property
    def where(self) -> str:
        """The place, for people."""
        return f"{self.path}, line {self.number}"

    @property
    def diverged(self) -> int | None:
        """After how many rounds its run did, or None."""
        found = re.fullmatch(re.escape(_DIVERGED).replace(r"\{\}", r"(\d{1,9})"), self.cells["adapter"], re.ASCII)
        return int(found[1]) if found else None

    def wrong(self, column: str, what: str, kind: type[FiguresError] = FiguresError) -> FiguresError:
        """The error that a cell of this line makes."""
        return kind(f"{self.where}, column {column}: {what}")


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


def no_adapter(diverged: int | None) -> str:
    """What stands in the place of an adapter's sha256."""
    return "none (each client has its own)" if diverged is None else _DIVERGED.format(diverged)


def figures_csv(table: Table, rows: Iterable[Mapping[str, object]]) -> str:
    """Rows by column, as a file; :func:`axis_column` says where an axis's value stands."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, _columns(table), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: spreadsheet_cell(value) for name, value in row.items()} for row in rows)
    return stream.getvalue()


def kept_csv(table: Table, recorded: Mapping[str, Recorded]) -> str:
    """What was read, as a file."""
    return figures_csv(table, (line.cells for run in recorded.values() for line in run.lines))


def gathered(given: Sequence[Path], kept: Path, table: Table, seeds: Mapping[str, int]) -> dict[str, Recorded]:
    """Key -> what the files say of the cell's run.

    Args:
        given: files of this table, all of whose lines must be of its cells and metrics.
        kept: in a sweep's folder, if it is there; as runs there, its lines may be of cells that the table had once.
        table: whose figures they are.
        seeds: key -> seed of the table's cells.

    Raises:
        FiguresError: a file means nothing, or two lines are at odds; the message names line, column and remedy.
    """
    found: dict[str, Recorded] = {}
    for path in [*given, *([kept] if kept.is_file() else [])]:
        for line in _lines(path, table):
            try:
                metric, at = _read_off(line, table)
                key = _key(line, seeds)
            except OtherTableError:
                if path is kept:
                    continue
                raise
            _add(found.setdefault(key, Recorded([], {})), line, (metric.name, at), _figure(line, metric), table)
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
            f"{_shown(line.cells[other])}, but {_shown(first.cells[other])} in {first.where}: two runs of the same "
            f"cell ({_title(line, table)}). Keep the lines of one.",
        )
    if figure is not None:
        known, before = run.figures.get(name, (figure, line))
        if not _agree(known, figure):
            raise line.wrong(
                "value",
                f"{_shown(line.cells['value'])}, but {_shown(before.cells['value'])} in {before.where}: two values of "
                f"{name[0]} of the same cell ({_title(line, table)}). Keep one.",
            )
        if other is None:
            run.figures.setdefault(name, (figure, line))
    if other is None and all(line.cells != known.cells for known in run.lines):
        run.lines.append(line)


def axis_column(name: str) -> str:
    """The column of an axis's values."""
    return f"axis {name}" if name in _COLUMNS else name


def _agree(one: float, other: float | None) -> bool:
    return other is None or math.isclose(one, other, rel_tol=_SAME)


def _columns(table: Table) -> list[str]:
    return [*(axis_column(axis.name) for axis in table.axes), *_COLUMNS]


def _lines(path: Path, table: Table) -> Iterator[Line]:
    """The lines below the head, each with all columns."""
    wanted = _columns(table)
    reader = csv.reader(io.StringIO(_text(path), newline=""), strict=True)
    try:
        head = next(reader, [])
        for name in wanted:
            if head.count(name) != 1:
                how = "is missing" if name not in head else "stands twice"
                raise FiguresError(
                    f"{path}, line 1: the column {name!r} {how}. A report.csv of this table has, between commas, "
                    f"{', '.join(wanted)}: take such a file, or none."
                )
        for name in head:
            if name not in wanted:
                raise FiguresError(f"{path}, line 1: unknown column {_shown(name)}{nearest(name, wanted)} Remove it.")
        for cells in reader:
            if cells and len(cells) != len(head):
                raise FiguresError(f"{path}, line {reader.line_num}: {len(cells)} of {len(head)} columns. {_CUT}")
            if cells:
                yield Line(path, reader.line_num, dict(zip(head, map(plain_cell, cells), strict=True)))
    except csv.Error as error:
        raise FiguresError(f"{path}, line {reader.line_num}: {error}. {_CUT}") from error


def _text(path: Path) -> str:
    try:
        data = read_regular(path, RECORDED)
    except OSError as error:
        raise FiguresError(f"{path} cannot be read: {error.strerror or error}. Name a report.csv.") from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise FiguresError(f"{path}, line {line}: it is not UTF-8. Save it as CSV in UTF-8.") from error


def _read_off(line: Line, table: Table) -> tuple[Metric, str]:
    """Which metric a line is of, and at which evaluation."""
    place = {axis.name: line.cells[axis_column(axis.name)] for axis in table.axes}
    for axis in table.axes:
        known = [value.name for value in axis.values]
        value = place[axis.name]
        if value not in known:
            raise line.wrong(
                axis_column(axis.name),
                f"{_shown(value)} is no value of this table's{nearest(value, known)} {_TAKE_OUT}",
                OtherTableError,
            )
    metrics = {metric.name: metric for metric in table.metrics_at(place)}
    name = line.cells["metric"]
    if name not in metrics:
        raise line.wrong(
            "metric",
            f"{_shown(name)} is none of this table's ({', '.join(metrics)}){nearest(name, metrics)} {_TAKE_OUT}",
            OtherTableError,
        )
    return metrics[name], table.place(place)


def _key(line: Line, seeds: Mapping[str, int]) -> str:
    """The key of a line's cell."""
    key, seed, folder = line.cells["config"], line.cells[SEED], line.cells["folder"]
    if key not in seeds:
        raise line.wrong(
            "config", f"{_shown(key)} is no configuration of this table with these overrides. Give the overrides and "
            "the table that the file's runs had, or take the lines of this configuration out; its cell is then run.",
            OtherTableError,
        )  # fmt: skip
    if seed != str(seeds[key]):
        raise line.wrong(SEED, f"{_shown(seed)}, where the configuration has {seeds[key]}. {_CUT}")
    if not re.fullmatch(r"[\w+-]+", folder, re.ASCII) or not folder.endswith(f"-{key[:12]}"):
        raise line.wrong("folder", f"{_shown(folder)} is not of this configuration, {key[:12]}. {_CUT}")
    return key


def _figure(line: Line, metric: Metric) -> float | None:
    text = line.cells["value"].strip()
    if not text:
        return None
    figure = _unscaled(float(text), metric.scale) if _NUMBER.fullmatch(text) else math.nan
    if not math.isfinite(figure):
        raise line.wrong(
            "value", f"{_shown(text)} is not a finite number, as 81.25 is. Correct it; left empty, the cell is run."
        )
    return figure


def _unscaled(written: float, scale: float) -> float:
    """The figure that, times its scale, was written.

    A quotient may not give the same digits again; of the floats beside it that do, it is the one with the fewest
    digits (0.58 of 57.99999999999999), so that a mean at the edge between two shown figures falls to the same side.
    """
    near = [guess := written / scale if scale else written]
    for end in (-math.inf, math.inf):
        near += [step := math.nextafter(guess, end), math.nextafter(step, end)]
    return min((value for value in near if value * scale == written), key=lambda v: len(repr(v)), default=guess)


def _title(line: Line, table: Table) -> str:
    return ", ".join([*(line.cells[axis_column(axis.name)] for axis in table.axes), f"{SEED} {line.cells[SEED]}"])


def _shown(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:77]}...")
