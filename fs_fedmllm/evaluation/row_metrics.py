"""Metrics as functions of row weights, so that thousands of resamples are a few matrix products.

Each agrees with scikit-learn on the resampled rows themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from fs_fedmllm.errors import FedMLLMError
from fs_fedmllm.evaluation.metrics import MetricError

Array = np.ndarray


class StatisticsError(FedMLLMError):
    """An interval or a test was asked for that these rows do not have."""


@dataclass(frozen=True)
class RowMetric:
    """A metric as a function of row weights.

    Attributes:
        name: what it is called in a table.
        rows: number of rows.
        weighted: (resamples, rows) weights -> (resamples,) values; NaN where undefined.
    """

    name: str
    rows: int
    weighted: Callable[[Array], Array]

    @property
    def value(self) -> float:
        """The metric of the rows as they are."""
        return float(self.weighted(np.ones((1, self.rows)))[0])


def accuracy(correct: Sequence[bool] | Array) -> RowMetric:
    """Share of right rows. Works for any mean of per-row numbers, such as a judge's verdicts."""
    right = _finite(correct)
    return RowMetric("acc", len(right), lambda w: (w @ right) / w.sum(axis=1))


def macro_f1(predicted: Sequence[int] | Array, labels: Sequence[int] | Array) -> RowMetric:
    """Unweighted mean of F1 over the classes that occur in a resample's truth or predictions.

    A negative prediction (unparsable) is wrong and is no class of its own.
    """
    truth, guesses = np.asarray(labels), np.asarray(predicted)
    same_rows(truth, guesses)
    classes = np.union1d(truth, guesses[guesses >= 0])[:, None]
    is_true, is_given = (truth == classes).T.astype(float), (guesses == classes).T.astype(float)
    hit = is_true * is_given

    def weighted(w: Array) -> Array:
        total = w @ (is_true + is_given)
        return (2 * (w @ hit) / np.where(total > 0, total, 1)).sum(axis=1) / (total > 0).sum(axis=1)

    return RowMetric("macro_f1", len(truth), weighted)


def auc(wanted: Sequence[bool] | Array, scores: Sequence[float] | Array) -> RowMetric:
    """Area under the ROC curve, ties one half; undefined in a resample that lost one class."""
    truth = np.asarray(wanted, dtype=bool)
    values = np.asarray(scores, dtype=float)
    same_rows(truth, values)
    if np.isnan(values).any():
        raise MetricError(f"The score of row {int(np.flatnonzero(np.isnan(values))[0])} is NaN.")
    order = np.argsort(values, kind="stable")
    ranked = values[order]
    starts = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])
    positive = truth[order].astype(float)

    def weighted(w: Array) -> Array:
        ordered = w[:, order]
        above = np.add.reduceat(ordered * positive, starts, axis=1)
        below = np.add.reduceat(ordered * (1 - positive), starts, axis=1)
        won = (above * (np.cumsum(below, axis=1) - below / 2)).sum(axis=1)
        pairs = above.sum(axis=1) * below.sum(axis=1)
        return np.where(pairs > 0, won / np.where(pairs > 0, pairs, 1), np.nan)

    return RowMetric("auc", len(truth), weighted)


def among(metric: RowMetric, chosen: Sequence[bool] | Array) -> RowMetric:
    """The metric of some of the rows; undefined in a resample that drew none of them.

    Args:
        metric: of all rows.
        chosen: which rows count.
    """
    keep = np.asarray(chosen, dtype=float)

    def weighted(w: Array) -> Array:
        kept = w * keep
        empty = kept.sum(axis=1) == 0
        kept[empty] = 1.0
        return np.where(empty, np.nan, metric.weighted(kept))

    return RowMetric(metric.name, metric.rows, weighted)


def mean_of(metrics: Sequence[RowMetric]) -> RowMetric:
    """The uniform mean of metrics over the same rows: runs with other seeds, or the clients of the baseline Local.

    All see the same resample, so what the rows have in common does not average out.

    Raises:
        StatisticsError: none are given, or they have different numbers of rows.
    """
    if not metrics or len({metric.rows for metric in metrics}) > 1:
        raise StatisticsError("A mean needs metrics over the same rows.")
    if len(metrics) == 1:
        return metrics[0]
    return RowMetric(
        metrics[0].name, metrics[0].rows, lambda w: np.mean([metric.weighted(w) for metric in metrics], axis=0)
    )


def _finite(values: Sequence[bool] | Array) -> Array:
    numbers = np.asarray(values, dtype=float)
    if not np.isfinite(numbers).all():
        raise MetricError(f"Row {int(np.flatnonzero(~np.isfinite(numbers))[0])} has no finite value.")
    return numbers


def same_rows(first: Array, second: Array) -> None:
    """Refuse two arrays that do not describe the same rows.

    Raises:
        StatisticsError: they differ in shape.
    """
    if first.shape != second.shape:
        raise StatisticsError(f"{first.size} and {second.size} rows cannot be compared row by row.")
