"""What a series of noisy means gives away: epsilon, by the library dp-accounting.

Which accountant applies depends on how clients are drawn, and the answer holds for one neighbouring relation only:

- every client in every round: the Gaussian mechanism, exactly (Balle and Wang, ICML 2018); no amplification.
  Neighbours: one client's data is taken out and its contribution becomes zero ("zero-out"); sensitivity C.
- Poisson sampling: the sampled Gaussian's Renyi divergence (Mironov, Talwar and Zhang 2019), or its privacy loss
  distribution (Doroshenko et al., PoPETs 2022), whose rounding is upwards; zero-out, sensitivity C. Each is a bound
  that depends on no data, so the smaller of the two is one too.
- a fixed number without replacement: Wang, Balle and Kasiviswanathan, AISTATS 2019, Theorem 27. It holds where one
  client is *replaced* by another, and two clipped deltas can be 2 C apart. The library's multiplier is the noise over
  that sensitivity, so it is given half of ours; to pass ours unchanged, as is often done, understates epsilon.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from fs_fedmllm.errors import PrivacyError
from fs_fedmllm.extras import require_extra

#: Renyi orders: whole numbers, where both bounds are sums of few terms. Small ones matter for large epsilon.
ORDERS = (*range(2, 13), 14, 16, 20, 24, 28, 32, 40, 48, 64, 96, 128, 256)

_LARGEST_MULTIPLIER = 1.0e6

#: ``fedmllm.privacy.dp.accountant``. ``auto`` takes the smallest bound that holds.
AUTO, RDP, PLD = "auto", "rdp", "pld"
#: Width of a step of the privacy loss distribution, relative to the Renyi epsilon; a wider one rounds up further.
#: Where that epsilon is next to nothing (few clients, and so a large delta), a step narrower than the least one
#: changes the fourth digit at most, and takes minutes and gigabytes.
_STEP, _LEAST_STEP = 2.0e-4, 1.0e-4


@dataclass(frozen=True)
class Release:
    """One noisy mean that was, or may have been, seen.

    Attributes:
        noise_multiplier: standard deviation of the noise on the sum over ``clip_norm``.
        expected: clients that the round expects.
        clients: clients in the federation.
        sampling: ``fixed`` or ``poisson``.
    """

    noise_multiplier: float
    expected: int
    clients: int
    sampling: str

    @property
    def mechanism(self) -> str:
        """Which of the three cases above this is: ``full``, ``poisson`` or ``fixed``."""
        return "full" if self.expected == self.clients else self.sampling

    @property
    def neighbouring(self) -> str:
        """The relation that epsilon holds for."""
        return "replace one client" if self.mechanism == "fixed" else "zero out one client"


def _library() -> Any:
    require_extra("privacy", "fedmllm.privacy.dp", "dp_accounting", error=PrivacyError)
    import dp_accounting
    import dp_accounting.pld
    import dp_accounting.rdp

    return dp_accounting


def _poisson(release: Release) -> Any:
    """The library's event of a release; at a rate of 1 it has every client."""
    dp = _library()
    return dp.PoissonSampledDpEvent(release.expected / release.clients, dp.GaussianDpEvent(release.noise_multiplier))


@lru_cache(maxsize=64)
def renyi(release: Release, orders: tuple[int, ...] = ORDERS) -> tuple[float, ...]:
    """Renyi divergence of one sampled release at each order, an upper bound."""
    dp = _library()
    if release.mechanism == "fixed":
        relation = dp.NeighboringRelation.REPLACE_ONE
        event = dp.SampledWithoutReplacementDpEvent(
            release.clients, release.expected, dp.GaussianDpEvent(release.noise_multiplier / 2)
        )
    else:
        relation = dp.NeighboringRelation.REPLACE_SPECIAL
        event = _poisson(release)
    accountant = dp.rdp.RdpAccountant(orders, relation)
    accountant.compose(event)
    return tuple(float(value) for value in accountant.rdp)


@dataclass(frozen=True)
class Bound:
    """An epsilon, and where it comes from.

    Attributes:
        epsilon: of all releases together.
        accountant: ``gaussian`` (exact without sampling), ``rdp`` or ``pld``; empty without a release or noise.
    """

    epsilon: float
    accountant: str = ""


def bound(
    releases: Iterable[Release], delta: float, orders: tuple[int, ...] = ORDERS, accountant: str = AUTO
) -> Bound:
    """Epsilon of all releases together.

    Args:
        releases: in any order; they may differ in their noise, not in their sampling.
        delta: probability with which epsilon may fail, in (0, 1).
        orders: Renyi orders, where they are used.
        accountant: :data:`AUTO`, :data:`RDP` or :data:`PLD`; the last for Poisson sampling.

    Returns:
        Epsilon: 0 without a release, infinite without noise.

    Raises:
        PrivacyError: the library is missing, the releases hold for different neighbouring relations, or the accountant
            does not apply to them.
    """
    counts = Counter(releases)
    if not counts:
        return Bound(0.0)
    mechanisms = {release.mechanism for release in counts}
    if len(mechanisms) > 1:
        raise PrivacyError("These releases were sampled in different ways; no single epsilon holds for all of them.")
    if accountant == PLD and mechanisms != {"poisson"}:
        raise PrivacyError(
            f"fedmllm.privacy.dp.accountant {PLD} holds for Poisson sampling; these releases were drawn otherwise "
            f"({mechanisms.pop()}). Take {AUTO}."
        )
    if any(release.noise_multiplier <= 0 for release in counts):
        return Bound(math.inf)
    ordered = sorted(counts.items(), key=lambda pair: (pair[0].noise_multiplier, pair[1]))
    return _bound(tuple(ordered), delta, orders, accountant)


@lru_cache(maxsize=256)
def _bound(counts: tuple[tuple[Release, int], ...], delta: float, orders: tuple[int, ...], accountant: str) -> Bound:
    dp, mechanism = _library(), counts[0][0].mechanism
    # Gaussians on the same data compose to one Gaussian whose precisions add up.
    precision = sum(count / release.noise_multiplier**2 for release, count in counts)
    sensitivity = 2.0 if mechanism == "fixed" else 1.0
    unsampled = Bound(float(dp.get_epsilon_gaussian(1 / (math.sqrt(precision) * sensitivity), delta)), "gaussian")
    if mechanism == "full":
        return unsampled
    total = [0.0] * len(orders)
    for release, count in counts:
        total = [t + count * value for t, value in zip(total, renyi(release, orders), strict=True)]
    sampled = Bound(float(dp.rdp.compute_epsilon(orders, total, delta)[0]), RDP)
    # Sampling never does harm, but with little noise the bound for it can be the looser one.
    found = [unsampled, sampled]
    if mechanism == "poisson" and accountant != RDP:
        loss = Bound(_by_privacy_loss(counts, delta, min(unsampled.epsilon, sampled.epsilon)), PLD)
        found = [unsampled, loss] if accountant == PLD else [*found, loss]
    best = min(found, key=lambda each: each.epsilon)
    return Bound(max(0.0, best.epsilon), best.accountant)


def _by_privacy_loss(counts: tuple[tuple[Release, int], ...], delta: float, about: float) -> float:
    """Epsilon by the privacy loss distribution of Poisson-sampled Gaussians; ``about`` it."""
    dp = _library()
    accountant = dp.pld.PLDAccountant(dp.NeighboringRelation.REPLACE_SPECIAL, max(_LEAST_STEP, _STEP * about))
    for release, count in counts:
        accountant.compose(_poisson(release), count)
    return float(accountant.get_epsilon(delta))


def epsilon(
    releases: Iterable[Release], delta: float, orders: tuple[int, ...] = ORDERS, accountant: str = AUTO
) -> float:
    """The number of :func:`bound`."""
    return bound(releases, delta, orders, accountant).epsilon


#: From here on, delta is a chance that nobody would call a promise.
_LARGE_DELTA = 0.1


def hollow(epsilon: float, delta: float) -> str:
    """A word on an epsilon that says little because of its delta; empty for any other.

    Args:
        epsilon: as it is shown.
        delta: of that epsilon.
    """
    if delta < _LARGE_DELTA:
        return ""
    small = "epsilon is this small only because " if epsilon < 1 else ""
    return (
        f"; this promises little: {small}a client may be exposed with probability {delta:.3g} (the default delta, "
        "client_num ** -1.1, is large for few clients: set fedmllm.privacy.dp.delta)"
    )


def solve_noise(
    target: float,
    delta: float,
    rounds: int,
    like: Release,
    spent: Sequence[Release] = (),
    precision: float = 1.0e-3,
    accountant: str = AUTO,
) -> float:
    """The smallest noise multiplier that keeps the whole run within an epsilon.

    Args:
        target: epsilon after the last round.
        delta: of that epsilon.
        rounds: releases still to come.
        like: their sampling; its noise does not count.
        spent: releases so far.
        precision: relative width at which the search ends, on the safe side.
        accountant: as for :func:`bound`.

    Raises:
        PrivacyError: no noise is enough, because the releases so far have spent the budget.
    """

    def after(multiplier: float) -> float:
        coming = Release(multiplier, like.expected, like.clients, like.sampling)
        return epsilon([*spent, *[coming] * rounds], delta, accountant=accountant)

    low, high = 0.0, 1.0
    while after(high) > target:
        low, high = high, high * 2
        if high > _LARGEST_MULTIPLIER:
            spent_so_far = epsilon(spent, delta, accountant=accountant)
            raise PrivacyError(
                f"fedmllm.privacy.dp.target_epsilon is {target:g}, but {len(spent)} rounds have spent "
                f"{spent_so_far:.4g} already and no noise keeps {rounds} more within it. Raise it, or take fewer "
                "rounds."
            )
    while high - low > precision * high:
        middle = (low + high) / 2
        low, high = (middle, high) if after(middle) > target else (low, middle)
    return high
