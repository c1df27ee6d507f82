"""How well a score tells rows that were trained on from rows that were not.

The score of a row is how much more its loss fell than that of the base model, from which training started: rows that
are easy for any model do not look like members (the calibration of Watson et al., "On the Importance of Difficulty
Calibration in Membership Inference Attacks", ICLR 2022). What counts is not the average only: an attack that is sure
of few rows is a leak of these (Carlini et al., "Membership Inference Attacks From First Principles", S&P 2022), so the
share of members that it finds at few false alarms is told too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from fs_fedmllm.errors import DataError
from fs_fedmllm.evaluation.row_metrics import auc
from fs_fedmllm.evaluation.statistics import LEVEL, Interval, bootstrap

#: Shares of false alarms at which members are counted.
FALSE_ALARMS = (0.001, 0.01, 0.1)
#: Fewest rows of either kind of which anything can be said.
FEWEST = 20


@dataclass(frozen=True)
class Found:
    """Members found where few others are taken for members.

    Attributes:
        at_most: share of false alarms that the threshold allows on these rows.
        false_alarms: share of held-out rows above it.
        false_alarms_high: upper end of its 95 % interval.
        share: of members above it.
        low, high: 95 % interval of that (Clopper and Pearson).
    """

    at_most: float
    false_alarms: float
    false_alarms_high: float
    share: float
    low: float
    high: float


@dataclass(frozen=True)
class Attack:
    """What one score finds.

    Attributes:
        members: rows that were trained on.
        held_out: rows that were not.
        auc: probability that a member has a higher score than a held-out row; 0.5 is guessing.
        found: by share of false alarms; those that so few held-out rows cannot show are left out.
    """

    members: int
    held_out: int
    auc: Interval
    found: tuple[Found, ...]


def attack(
    members: Sequence[float] | np.ndarray,
    held_out: Sequence[float] | np.ndarray,
    rng: np.random.Generator,
    *,
    resamples: int = 2000,
) -> Attack:
    """Tell members from others by their scores.

    Args:
        members: score of each row that was trained on; higher means more like one.
        held_out: score of each row that was not.
        rng: draws the resamples.
        resamples: of the AUC's interval.

    Raises:
        DataError: there are too few rows of a kind.
    """
    inside, outside = np.asarray(members, dtype=float), np.asarray(held_out, dtype=float)
    for count, what in ((len(inside), "that were trained on"), (len(outside), "that were held out")):
        if count < FEWEST:
            raise DataError(f"An audit needs at least {FEWEST} rows of each kind; there are {count} {what}.")
    truth = np.r_[np.ones(len(inside), dtype=bool), np.zeros(len(outside), dtype=bool)]
    found = bootstrap(auc(truth, np.r_[inside, outside]), rng, resamples=resamples)
    shares = tuple(
        _found(inside, outside, at_most) for at_most in FALSE_ALARMS if math.floor(at_most * len(outside)) >= 1
    )
    return Attack(len(inside), len(outside), found, shares)


def _found(inside: np.ndarray, outside: np.ndarray, at_most: float) -> Found:
    threshold = np.sort(outside)[::-1][math.floor(at_most * len(outside))]
    hits, alarms = int((inside > threshold).sum()), int((outside > threshold).sum())
    low, high = exact_interval(hits, len(inside))
    return Found(
        at_most, alarms / len(outside), exact_interval(alarms, len(outside))[1], hits / len(inside), low, high
    )


def exact_interval(hits: int, rows: int) -> tuple[float, float]:
    """The 95 % interval of a share, by Clopper and Pearson (Biometrika 1934)."""
    interval = stats.binomtest(hits, rows).proportion_ci(LEVEL, method="exact")
    return float(interval.low), float(interval.high)
