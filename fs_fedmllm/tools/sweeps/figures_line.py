"""A line of a file of figures: its columns, the figure in it, and where it stands."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from fs_fedmllm.config.nearest import nearest
from fs_fedmllm.errors import FedMLLMError
from fs_fedmllm.files.untrusted import RECORDED, read_regular
from fs_fedmllm.quoting import plain_cell
from fs_fedmllm.text_columns import cut
from fs_fedmllm.tools.sweeps.table import SEED, Metric, Table

#: The columns that say what made a run.
MADE_BY = ("model", "profile", "version", "commit", "config", "manifest", "adapter", "folder")
#: The columns after the table's axes. The paper's figures are the table's, and not read.
_COLUMNS = (SEED, "metric", "value", "at", "scale", "paper_mean", "paper_std", *MADE_BY)
#: Which evaluation a figure is of, and what it was multiplied by; files of earlier releases lack them.
_LATER = ("at", "scale")
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", re.ASCII | re.IGNORECASE)
#: Metrics that are shares.
_SHARE = re.compile(r"(test_sets\.[^.]+\.)?(test|val)_(image_|text_)?(open_|closed_)?(acc|macro_f1|auc)", re.ASCII)
_ROUNDED = 1e-9
#: In the column of the adapter.
_DIVERGED = "none (diverged after {} rounds)"
#: What to do with a line that was changed.
CUT = "The file was cut off or edited: take it anew. With the line taken out, the cell is run."


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

    def place(self, table: Table) -> dict[str, str]:
        """Axis -> value."""
        return {axis.name: self.cells[axis_column(axis.name)] for axis in table.axes}

    @property
    def diverged(self) -> int | None:
        """After how many rounds its run did, or None."""
        found = re.fullmatch(re.escape(_DIVERGED).replace(r"\{\}", r"(\d{1,9})"), self.cells["adapter"], re.ASCII)
        return int(found[1]) if found else None

    def wrong(self, column: str, what: str, kind: type[FiguresError] = FiguresError) -> FiguresError:
        """The error that a cell of this line makes."""
        return kind(f"{self.where}, column {column}: {what}")


def no_adapter(diverged: int | None) -> str:
    """What stands in the place of an adapter's sha256."""
    return "none (each client has its own)" if diverged is None else _DIVERGED.format(diverged)


def axis_column(name: str) -> str:
    """The column of an axis's values."""
    return f"axis {name}" if name in _COLUMNS else name


def columns(table: Table) -> list[str]:
    """Of the file of a table."""
    return [*(axis_column(axis.name) for axis in table.axes), *_COLUMNS]


def read_lines(path: Path, table: Table, advice: str) -> Iterator[Line]:
    """The lines below the head, each with all columns."""
    wanted = columns(table)
    reader = csv.reader(io.StringIO(_text(path), newline=""), strict=True)
    try:
        head = next(reader, [])
        for name in wanted:
            if head.count(name) != 1 and not (name in _LATER and name not in head):
                how = "is missing" if name not in head else "stands twice"
                raise FiguresError(
                    f"{path}, line 1: the column {name!r} {how}. A report.csv of this table has, between commas, "
                    f"{', '.join(wanted)}: {advice}"
                )
        for name in head:
            if name not in wanted:
                raise FiguresError(f"{path}, line 1: unknown column {shown(name)}{nearest(name, wanted)} Remove it.")
        for cells in reader:
            if cells and len(cells) != len(head):
                raise FiguresError(f"{path}, line {reader.line_num}: {len(cells)} of {len(head)} columns. {CUT}")
            if cells:
                told = dict(zip(head, map(plain_cell, cells), strict=True))
                yield Line(path, reader.line_num, {**dict.fromkeys(_LATER, ""), **told})
    except csv.Error as error:
        raise FiguresError(f"{path}, line {reader.line_num}: {error}. {CUT}") from error


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


def figure_of(line: Line, metric: Metric, at: str) -> float | None:
    """The line's figure in the metric's own unit; None where it is empty."""
    text, scale = line.cells["value"].strip(), metric.scale
    if not text:
        return None
    if told := line.cells["scale"].strip():
        scale = float(told) if _NUMBER.fullmatch(told) else math.nan
        if not math.isfinite(scale) or not scale:
            raise line.wrong("scale", f"{shown(told)} is not a finite number other than 0. {CUT}")
    figure = unscaled(float(text), scale) if _NUMBER.fullmatch(text) else math.nan
    if not math.isfinite(figure):
        raise line.wrong(
            "value", f"{shown(text)} is not a finite number, as 81.25 is. Correct it; left empty, the cell is run."
        )
    if _SHARE.fullmatch(metric.name) and not -_ROUNDED <= figure <= 1 + _ROUNDED:
        raise line.wrong(
            "value", f"{shown(text)} at a scale of {scale:g} is {figure:g}, and {metric.name} is between 0 and 1. "
            "Correct it, or give the table the scale that the file was written with."
        )  # fmt: skip
    if line.diverged is not None and at == "last" and _SHARE.fullmatch(metric.name):
        raise line.wrong("value", f"{shown(text)}, of the last round of a run that diverged before it. {CUT}")
    return figure


def unscaled(written: float, scale: float) -> float:
    """The figure that, times its scale, was written.

    A quotient may not give the same digits again; of the floats beside it that do, it is the one with the fewest
    digits (0.58 of 57.99999999999999), so that a mean at the edge between two shown figures falls to the same side.
    """
    near = [guess := written / scale if scale else written]
    for end in (-math.inf, math.inf):
        near += [step := math.nextafter(guess, end), math.nextafter(step, end)]
    return min((value for value in near if value * scale == written), key=lambda v: len(repr(v)), default=guess)


def shown(text: str) -> str:
    """A text of the file, for a message."""
    return repr(cut(text, 80))
