"""A report's tables, before they are text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Cell:
    """A figure as text.

    Attributes:
        figure: mean and standard deviation over the seeds; a dash where nothing is finished.
        lines: what stands under it: interval, the paper's figure and the difference, the comparison.
    """

    figure: str
    lines: tuple[str, ...] = ()


@dataclass(frozen=True)
class Grid:
    """A table: head, and rows of a title and cells.

    Attributes:
        note: what stands below it: how it is to be read.
    """

    title: str
    head: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Cell]]]
    note: str = ""
