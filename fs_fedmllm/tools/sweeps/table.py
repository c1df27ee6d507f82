"""A table: which runs make it, what is read off each, and what the paper reports in that place.

:mod:`fs_fedmllm.tools.sweeps.table_file` reads one from YAML.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fs_fedmllm.errors import FedMLLMError

#: Which evaluation of a run a figure is read off.
PLACES = ("last", "best", "zero_shot")
SEED = "seed"


class TableError(FedMLLMError):
    """A table file that means nothing; the message names the file and the key."""


@dataclass(frozen=True)
class Metric:
    """One number of a run.

    Attributes:
        name: of an evaluation (``test_macro_f1``), or a path into results.json after ``results.``
            (``results.seconds.total``).
        title: head of its column.
        scale: what the number is multiplied by, for show.
        decimals: shown.
    """

    name: str
    title: str
    scale: float = 100.0
    decimals: int = 1


@dataclass(frozen=True)
class Value:
    """A value of an axis.

    Attributes:
        name: as in the file.
        title: for show.
        config: configuration of its runs; empty takes the table's.
        settings: dotted key -> value, over the configuration and the table's own.
        metrics: in place of the table's; empty takes those.
        at: which evaluation is read; empty takes the table's. ``zero_shot`` has no run of its own.
        note: one sentence under the table.
    """

    name: str
    title: str
    config: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    metrics: tuple[Metric, ...] = ()
    at: str = ""
    note: str = ""


@dataclass(frozen=True)
class Axis:
    """A dimension of the grid."""

    name: str
    title: str
    values: tuple[Value, ...]

    def value(self, name: str) -> Value:
        """The value of that name."""
        return next(value for value in self.values if value.name == name)


@dataclass(frozen=True)
class Reported:
    """A figure of the paper, in the unit of the table; ``std`` is None where it gives none."""

    mean: float
    std: float | None = None


@dataclass(frozen=True)
class Table:
    """A table file, read.

    Attributes:
        name: file name without ``.yaml``.
        title, about: for show.
        source: where the paper's figures are from.
        config: configuration of the runs, unless an axis value names its own.
        settings: dotted key -> value, for every run.
        axes: the grid, without the seeds.
        seeds: runs of every cell.
        rows, columns: names of the axes that make the rows and the columns.
        order: axes from the slowest to the fastest in the order of execution, ``seed`` among them.
        baseline: coordinates of the row that the others are compared with; empty is the first row.
        metrics: read off every run; the first is the one that is tested.
        at: which evaluation is read.
        curves: figures of client updates (``loss``, ``grad_norm``) or evaluations (``test_acc``) drawn over rounds.
        skip: partial coordinates of cells that are left out.
        paper: (row values..., column values..., metric name) -> the paper's figure.
    """

    name: str
    title: str
    about: str
    source: str
    config: str
    settings: Mapping[str, Any]
    axes: tuple[Axis, ...]
    seeds: tuple[int, ...]
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    order: tuple[str, ...]
    baseline: Mapping[str, str]
    metrics: tuple[Metric, ...]
    at: str
    curves: tuple[str, ...]
    skip: tuple[Mapping[str, str], ...]
    paper: Mapping[tuple[str, ...], Reported]

    def axis(self, name: str) -> Axis:
        """The axis of that name."""
        return next(axis for axis in self.axes if axis.name == name)

    def values(self, coordinates: Mapping[str, str]) -> list[Value]:
        """The axis values at a place of the grid."""
        return [self.axis(name).value(value) for name, value in coordinates.items()]

    def metrics_at(self, coordinates: Mapping[str, str]) -> tuple[Metric, ...]:
        """What is read off the runs at a place: the last axis value that says so wins."""
        found = [value.metrics for value in self.values(coordinates) if value.metrics]
        return found[-1] if found else self.metrics

    def place(self, coordinates: Mapping[str, str]) -> str:
        """Which evaluation is read at a place."""
        found = [value.at for value in self.values(coordinates) if value.at]
        return found[-1] if found else self.at

    def skipped(self, coordinates: Mapping[str, str]) -> bool:
        """Whether a place is left out."""
        return any(all(coordinates.get(k) == v for k, v in part.items()) for part in self.skip)

    def places(self, axes: Sequence[str]) -> Iterator[dict[str, str]]:
        """Every combination of the axes' values, the last axis fastest."""
        if not axes:
            yield {}
            return
        for value in self.axis(axes[0]).values:
            for rest in self.places(axes[1:]):
                yield {axes[0]: value.name, **rest}

    def reported(self, coordinates: Mapping[str, str], metric: Metric) -> Reported | None:
        """The paper's figure at a place; None if it gives none."""
        return self.paper.get((*(coordinates[name] for name in (*self.rows, *self.columns)), metric.name))
