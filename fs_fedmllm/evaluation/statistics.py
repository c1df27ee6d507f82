"""How sure a number is: bootstrap intervals, paired comparison of two runs, spread over seeds.

A resample is a vector of row weights, so all resamples of a metric are a few matrix products. Rows that belong
together (one patient, one post, one question) are resampled together when ``groups`` says so.

Efron and Tibshirani, An Introduction to the Bootstrap, 1993 (percentile intervals: chapter 13).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from fs_fedmllm.evaluation.row_metrics import Array, RowMetric, StatisticsError

#: Share of intervals made this way that hold the true value.
LEVEL = 0.95

#: Weights held at once (8 MiB of them as float64), whatever the numbers of rows and resamples.
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Interval:
    """A number with its confidence interval.

    Attributes:
        value: on the rows as they are.
        low, high: ends of the interval.
        resamples: resamples that the interval rests on.
        undefined: resamples left out because the metric does not exist there (an AUC of one class).
    """

    value: float
    low: float
    high: float
    resamples: int
    undefined: int


@dataclass(frozen=True)
class Difference:
    """First run minus second run on the same rows, with its interval and a two-sided bootstrap p-value."""

    interval: Interval
    p_value: float


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation (n - 1) over seeds; ``std`` is None for one seed."""

    mean: float
    std: float | None
    seeds: int


def bootstrap(
    metric: RowMetric,
    rng: np.random.Generator,
    *,
    resamples: int = 2000,
    groups: Sequence[object] | Array | None = None,
) -> Interval:
    """The 95 % percentile interval of a metric.

    Args:
        metric: from :mod:`fs_fedmllm.evaluation.row_metrics`.
        rng: draws the resamples; the same generator state gives the same interval.
        resamples: how many.
        groups: a key for each row; rows with the same key are drawn together.

    Raises:
        StatisticsError: wrong arguments, or the metric is undefined on the rows or on every resample.
    """
    _check(metric.rows, resamples)
    value = metric.value
    if np.isnan(value):
        raise StatisticsError(f"{metric.name} is undefined on these rows, so it has no interval.")
    unit = _units(groups, metric.rows)
    draws = np.concatenate([metric.weighted(w) for w in _resamples(unit, resamples, rng)])
    return _interval(metric, value, draws)


def paired_bootstrap(
    first: RowMetric,
    second: RowMetric,
    rng: np.random.Generator,
    *,
    resamples: int = 2000,
    groups: Sequence[object] | Array | None = None,
) -> Difference:
    """Interval of ``first - second`` where both see the same resamples of the same rows.

    The p-value is twice the smaller share of resamples on either side of 0, zero counting to both sides, with one
    added to count and total, so it is never 0.

    Raises:
        StatisticsError: as :func:`bootstrap`, or the two have different numbers of rows.
    """
    if first.rows != second.rows:
        raise StatisticsError(f"A paired comparison needs the same rows; got {first.rows} and {second.rows}.")
    both = RowMetric(f"{first.name} difference", first.rows, lambda w: first.weighted(w) - second.weighted(w))
    _check(both.rows, resamples)
    if np.isnan(both.value):
        raise StatisticsError(f"{first.name} is undefined on these rows, so runs cannot be compared by it.")
    unit = _units(groups, both.rows)
    draws = np.concatenate([both.weighted(w) for w in _resamples(unit, resamples, rng)])
    interval = _interval(both, both.value, draws)
    kept = draws[~np.isnan(draws)]
    smaller = min(int((kept <= 1e-12).sum()), int((kept >= -1e-12).sum()))
    return Difference(interval, min(1.0, 2 * (smaller + 1) / (len(kept) + 1)))


def over_seeds(values: Sequence[float] | Array) -> Spread:
    """Mean and sample standard deviation of one number over seeds.

    Raises:
        StatisticsError: no values.
    """
    numbers = np.asarray(values, dtype=float)
    if not len(numbers):
        raise StatisticsError("There are no values to take the mean of.")
    return Spread(float(numbers.mean()), float(numbers.std(ddof=1)) if len(numbers) > 1 else None, len(numbers))


def _interval(metric: RowMetric, value: float, draws: Array) -> Interval:
    kept = draws[~np.isnan(draws)]
    if not len(kept):
        raise StatisticsError(f"{metric.name} is undefined on every resample of these rows.")
    low, high = np.quantile(kept, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(value, float(low), float(high), len(kept), len(draws) - len(kept))


def _resamples(unit: Array, resamples: int, rng: np.random.Generator) -> Iterator[Array]:
    """Blocks of (resamples, rows) weights: how often each row's unit was drawn."""
    count = int(unit.max()) + 1
    step = max(1, _BLOCK // max(count, len(unit)))
    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        drawn = rng.integers(count, size=(size, count)) + np.arange(size)[:, None] * count
        yield np.bincount(drawn.ravel(), minlength=size * count).reshape(size, count)[:, unit].astype(float)


def _units(groups: Sequence[object] | Array | None, rows: int) -> Array:
    """The unit that each row is drawn with, numbered from 0 in order of first occurrence."""
    if groups is None:
        return np.arange(rows)
    keys = list(groups)
    if len(keys) != rows:
        raise StatisticsError(f"{len(keys)} group keys do not fit {rows} rows.")
    numbers: dict[object, int] = {}
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys])


def _check(rows: int, resamples: int) -> None:
    if rows < 1 or resamples < 1:
        raise StatisticsError(f"A bootstrap needs rows and resamples; got {rows} rows and {resamples} resamples.")
