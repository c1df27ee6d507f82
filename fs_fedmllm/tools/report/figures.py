"""The figures of a report: mean and spread over seeds, intervals over test rows, paired tests, slices."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fs_fedmllm.evaluation.metrics import MetricError
from fs_fedmllm.evaluation.predictions import shown_as
from fs_fedmllm.evaluation.row_metrics import RowMetric, StatisticsError, mean_of
from fs_fedmllm.evaluation.slices import groups_of, row_metric
from fs_fedmllm.evaluation.statistics import Difference, Interval, Spread, bootstrap, over_seeds, paired_bootstrap
from fs_fedmllm.tools.report.finished import Run, figure_of
from fs_fedmllm.tools.report.runs import Sheet, split_name
from fs_fedmllm.tools.sweeps.table import Metric, Reported

#: Resamples of a report's intervals and tests.
RESAMPLES = 2000


@dataclass(frozen=True)
class Entry:
    """One figure of a table.

    Attributes:
        spread: over the seeds; None where no run is finished, or none has the figure.
        interval: bootstrap over the test rows, of the mean over the seeds; None where rows are not kept.
        paper: what the paper reports there, in the table's unit.
        versus: this row minus the baseline on the same test rows; None for the baseline itself.
        p_adjusted: ``versus.p_value`` after Holm's correction for the rows of the column.
        diverged: rounds after which runs of other seeds diverged; they are in no mean.
        lacking: further runs that are in no mean, since they have no such figure.
    """

    spread: Spread | None
    interval: Interval | None = None
    paper: Reported | None = None
    versus: Difference | None = None
    p_adjusted: float | None = None
    diverged: tuple[int, ...] = ()
    lacking: int = 0


def baseline_of(sheet: Sheet) -> Mapping[str, str]:
    """The row that others are compared with: the one that is named, or the first with runs of its own."""
    rows = sheet.rows()
    for row in rows:
        if sheet.table.baseline and all(row.get(k) == v for k, v in sheet.table.baseline.items()):
            return row
    return next((row for row in rows if sheet.table.place(row) != "zero_shot"), rows[0])


def column_metrics(sheet: Sheet, column: Mapping[str, str]) -> tuple[Metric, ...]:
    """What is read off the runs of a column."""
    return sheet.table.metrics_at({**sheet.rows()[0], **column})


def entries(sheet: Sheet, column: Mapping[str, str], index: int) -> list[Entry]:
    """A column's figures, row by row."""
    found: list[Entry] = []
    base_row = baseline_of(sheet)
    base = _runs(sheet, base_row, column)
    for row in sheet.rows():
        place = {**row, **column}
        metric = sheet.table.metrics_at(place)[index]
        at = sheet.table.place(place)
        every = sheet.at(place)
        sound = [run for run in every if run.diverged is None or at != "last"]
        valued = [(run, value) for run in sound if (value := run.value(metric.name, at)) is not None]
        runs, values = [run for run, _ in valued], [value for _, value in valued]
        versus, interval = None, None
        if at == "last":
            interval = _interval(runs, metric)
            if row != base_row and sheet.table.place({**base_row, **column}) == "last":
                versus = paired([run for run in base if run.value(metric.name, at) is not None], runs, metric)
        found.append(
            Entry(
                over_seeds(values) if values else None,
                interval,
                sheet.table.reported(place, metric),
                versus,
                diverged=tuple(run.diverged for run in every if run.diverged is not None and at == "last"),
                lacking=len(sound) - len(runs),
            )
        )
    tested = [i for i, entry in enumerate(found) if entry.versus is not None]
    p_values = [entry.versus.p_value for entry in found if entry.versus is not None]
    for i, p_value in zip(tested, holm(p_values), strict=True):
        found[i] = Entry(**{**vars(found[i]), "p_adjusted": p_value})
    return found


def _runs(sheet: Sheet, row: Mapping[str, str], column: Mapping[str, str]) -> Sequence[Run]:
    return [run for run in sheet.at({**row, **column}) if run.diverged is None]


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction (Scandinavian Journal of Statistics 6, 1979), in the order given."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = highest
    return adjusted


def _over_runs(runs: Iterable[Run], metric: Metric) -> tuple[RowMetric, list[str], list[object]] | None:
    """The metric's mean over runs as a function of row weights, the rows' ids, and which belong together."""
    split = split_name(metric)
    if split is None:
        return None
    test_set, shown, name = split
    metrics: list[RowMetric] = []
    ids: list[str] | None = None
    groups: list[object] = []
    for run in (run.of(test_set) for run in runs):
        predictions = shown_as(run.predictions, shown)
        first = [p for p in predictions if p.client == (predictions[0].client if predictions else None)]
        try:
            own = row_metric(name, predictions, run.results.get("positive")) if predictions else None
        except (MetricError, StatisticsError):
            return None
        if own is None or (ids is not None and ids != [p.id for p in first]):
            return None
        ids, groups = [p.id for p in first], groups_of(first)
        metrics.append(own)
    return (mean_of(metrics), ids, groups) if ids is not None else None


def _interval(runs: Sequence[Run], metric: Metric) -> Interval | None:
    found = _over_runs(runs, metric)
    if found is None:
        return None
    try:
        return bootstrap(found[0], np.random.default_rng(0), resamples=RESAMPLES, groups=found[2])
    except StatisticsError:
        return None


def paired(base: Sequence[Run], runs: Sequence[Run], metric: Metric) -> Difference | None:
    """``runs`` minus ``base`` on the same test rows, over the seeds that both have; None if they share none."""
    common = {run.seed for run in base} & {run.seed for run in runs}
    first = _over_runs([run for run in runs if run.seed in common], metric)
    second = _over_runs([run for run in base if run.seed in common], metric)
    if first is None or second is None or first[1] != second[1]:
        return None
    try:
        return paired_bootstrap(first[0], second[0], np.random.default_rng(0), resamples=RESAMPLES, groups=first[2])
    except StatisticsError:
        return None


def mean_slices(runs: Sequence[Run], key: str, figure: str) -> dict[str, float]:
    """A slice's figure, mean over the runs that have it: ``classes`` by ``f1``, ``clients`` by ``acc``."""
    found: dict[str, list[float]] = {}
    for run in runs:
        for name, numbers in (run.results.get(key) or {}).items():
            if (value := figure_of(numbers.get(figure))) is not None:
                found.setdefault(name, []).append(value)
    return {name: sum(values) / len(values) for name, values in found.items()}
