"""Which evaluation is the best so far."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from fs_fedmllm.errors import UpdateError
from fs_fedmllm.scenarios.fitting import LAST_ROUND

#: Metrics for which less is better.
LOWER_IS_BETTER = ("loss",)


def _loss(entry: dict[str, Any], metric: str) -> float:
    """The loss on the split of a metric; infinite where there is none."""
    loss = entry.get(f"{metric.partition('_')[0]}_loss")
    return float("inf") if loss is None or math.isnan(loss) else float(loss)


def never_moved(evaluations: Sequence[dict[str, Any]], metric: str) -> bool:
    """Whether the metric that picks the best round has one value in all of several evaluations."""
    return len(evaluations) > 1 and len({entry.get(metric) for entry in evaluations}) == 1 and metric != LAST_ROUND


def is_better(entry: dict[str, Any], than: dict[str, Any] | None, metric: str) -> bool:
    """Whether an evaluation is better than another one; the first is better than none. A tie goes to the lower loss.

    Args:
        entry: figures by name.
        than: the other's.
        metric: as :func:`fs_fedmllm.scenarios.fitting.best_metric` names it.

    Raises:
        UpdateError: the evaluation has no such figure.
    """
    if than is None or metric == LAST_ROUND:
        return True
    if metric not in entry:
        known = ", ".join(name for name in entry if name != "round")
        raise UpdateError(f"eval.best_res_update_round_wise_key is {metric!r}, but the evaluation has {known}.")
    if entry[metric] == than[metric]:
        return _loss(entry, metric) < _loss(than, metric)
    if metric.partition("_")[2] in LOWER_IS_BETTER:
        return bool(entry[metric] < than[metric])
    return bool(entry[metric] > than[metric])


def best_of(evaluations: Sequence[dict[str, Any]], metric: str) -> dict[str, Any] | None:
    """The best evaluation, the earliest of equals; None if there is none."""
    best: dict[str, Any] | None = None
    for entry in evaluations:
        if is_better(entry, best, metric):
            best = entry
    return best


def zero_shot_of(evaluations: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The evaluation before round 0; None where there was none."""
    return evaluations[0] if evaluations and evaluations[0]["round"] == 0 else None
