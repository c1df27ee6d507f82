"""What runs with several seeds say of a difference between two methods, and what so few seeds could have shown.

A module of its own: scipy's distributions take a good part of a second to import, and a run needs none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize, stats

from fs_fedmllm.evaluation.row_metrics import Array, StatisticsError
from fs_fedmllm.evaluation.statistics import LEVEL

#: Share of tests that see a difference as large as what is called detectable.
POWER = 0.8


@dataclass(frozen=True)
class SeedDifference:
    """A mean paired difference over seeds.

    Attributes:
        mean: of the differences.
        low, high: ends of its 95 % interval.
        p_value: two-sided.
        seeds: pairs.
        detectable: the true difference that so many seeds with this spread would have shown with a power of 0.8;
            a smaller one can be there and not be seen.
    """

    mean: float
    low: float
    high: float
    p_value: float
    seeds: int
    detectable: float


def paired_over_seeds(first: Sequence[float] | Array, second: Sequence[float] | Array) -> SeedDifference:
    """``first - second`` of runs with the same seeds: what the seeds say, not the rows that were tested.

    Student's t of the differences: they are taken as draws of a normal distribution.

    Args:
        first, second: a figure of each seed, in the same order of seeds, shape ``(seeds,)``.

    Raises:
        StatisticsError: different numbers of seeds, or fewer than two.
    """
    one, two = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if one.shape != two.shape or one.ndim != 1 or len(one) < 2:
        raise StatisticsError(
            f"A comparison over seeds needs the same two seeds or more; got {one.shape}, {two.shape}."
        )
    differences = one - two
    count, mean, error = len(one), float(differences.mean()), float(differences.std(ddof=1)) / len(one) ** 0.5
    if error == 0.0:
        return SeedDifference(mean, mean, mean, 1.0 if mean == 0.0 else 0.0, count, 0.0)
    reach = float(stats.t.ppf((1 + LEVEL) / 2, count - 1)) * error
    p_value = 2 * float(stats.t.sf(abs(mean) / error, count - 1))
    return SeedDifference(mean, mean - reach, mean + reach, p_value, count, detectable(count) * error * count**0.5)


def detectable(seeds: int) -> float:
    """The true difference, in standard deviations of the differences, that a paired t-test sees 4 times out of 5.

    Cohen, Statistical Power Analysis for the Behavioral Sciences, 1988, chapter 2: power 0.8 at level 0.05, two-sided,
    by the noncentral t distribution with ``seeds - 1`` degrees of freedom.
    """
    freedom = seeds - 1
    bound = float(stats.t.ppf((1 + LEVEL) / 2, freedom))

    def missing(effect: float) -> float:
        shift = effect * seeds**0.5
        # The other tail's share of the power is below 1e-4 here, and scipy's noncentral t is not exact that far out.
        return float(stats.nct.sf(bound, freedom, shift)) - POWER

    return float(optimize.brentq(missing, 0.1 / seeds**0.5, 2000.0 / seeds**0.5))
