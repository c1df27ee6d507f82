"""Epsilon against formulas worked out here, not against the library that computes it."""

from __future__ import annotations

import json
import math

import pytest
from scipy.stats import norm

from fs_fedmllm.errors import PrivacyError
from fs_fedmllm.privacy import accountant
from fs_fedmllm.privacy.accountant import Bound, Release, bound, epsilon, renyi, solve_noise
from fs_fedmllm.privacy.ledger import Ledger


def gaussian_delta(eps: float, sigma: float) -> float:
    """Balle and Wang (ICML 2018), Theorem 8, sensitivity 1."""
    return norm.cdf(0.5 / sigma - eps * sigma) - math.exp(eps) * norm.cdf(-0.5 / sigma - eps * sigma)


def test_full_participation_is_the_exact_gaussian() -> None:
    releases = [Release(4.0, 10, 10, "fixed")] * 16  # composes to sigma = 4 / sqrt(16) = 1
    eps = epsilon(releases, 1e-5)
    assert gaussian_delta(eps, 1.0) == pytest.approx(1e-5, rel=1e-3)
    assert eps == pytest.approx(4.377, abs=1e-3)
    mixed = [Release(2.0, 10, 10, "fixed"), Release(3.0, 10, 10, "fixed")]
    assert gaussian_delta(epsilon(mixed, 1e-3), 1 / math.sqrt(1 / 4 + 1 / 9)) == pytest.approx(1e-3, rel=1e-3)


def test_poisson_at_order_two() -> None:
    """Mironov et al. 2019: at order 2 the divergence is log(1 + q^2 (exp(1 / sigma^2) - 1))."""
    (value,) = renyi(Release(1.5, 20, 100, "poisson"), (2,))
    assert value == pytest.approx(math.log1p(0.2**2 * math.expm1(1 / 1.5**2)), rel=1e-9)


def test_without_replacement_at_order_two_with_twice_the_sensitivity() -> None:
    """Wang et al. 2019, Theorem 27, at order 2, for noise of z C over a sensitivity of 2 C."""
    z, q = 3.0, 0.1
    divergence = 2 / (2 * (z / 2) ** 2)
    expected = math.log1p(q**2 * min(4 * math.expm1(divergence), 2 * math.exp(divergence)))
    (value,) = renyi(Release(z, 10, 100, "fixed"), (2,))
    assert value == pytest.approx(expected, rel=1e-9)


def test_conversion_at_one_order() -> None:
    """Canonne, Kamath and Steinke 2020, Proposition 12, of 30 rounds at order 8."""
    release, delta, order = Release(1.1, 20, 2000, "poisson"), 1e-5, 8
    total = 30 * renyi(release, (order,))[0]
    expected = total + math.log1p(-1 / order) - math.log(delta * order) / (order - 1)
    assert epsilon([release] * 30, delta, (order,), "rdp") == pytest.approx(expected, rel=1e-9)
    assert epsilon([release] * 30, delta, accountant="rdp") <= expected


def test_published_value() -> None:
    """TensorFlow Privacy's MNIST example: 60000 rows, batches of 250, noise 1.3, 15 epochs, delta 1e-5: 1.19.

    Their figure is from an older, looser conversion of the same divergences; ours must be below and near.
    """
    value = epsilon([Release(1.3, 250, 60000, "poisson")] * 3600, 1e-5, accountant="rdp")
    assert 0.9 < value <= 1.19


def sampled_delta(eps: float, z: float, q: float) -> float:
    """Hockey-stick divergences of N(0, z^2) and (1 - q) N(0, z^2) + q N(1, z^2), the larger of both directions."""
    import numpy as np

    x = np.linspace(-12 * z, 12 * z + 1, 400_001)
    without = norm.pdf(x, 0, z)
    with_it = (1 - q) * without + q * norm.pdf(x, 1, z)
    step = x[1] - x[0]
    sides = ((with_it, without), (without, with_it))
    return max(float(np.maximum(one - math.exp(eps) * other, 0).sum() * step) for one, other in sides)


@pytest.mark.parametrize(("z", "expected", "clients", "delta"), [(0.8, 5, 20, 1e-3), (2.0, 3, 10, 1e-2)])
def test_privacy_loss_of_one_round_is_exact(z: float, expected: int, clients: int, delta: float) -> None:
    found = bound([Release(z, expected, clients, "poisson")], delta, accountant="pld")
    assert found.accountant == "pld"
    assert sampled_delta(found.epsilon, z, expected / clients) == pytest.approx(delta, rel=5e-3)
    assert found.epsilon < epsilon([Release(z, expected, clients, "poisson")], delta, accountant="rdp")


@pytest.mark.parametrize(
    ("z", "expected", "clients", "rounds", "delta", "saved"),
    [(1.8, 5, 20, 50, 1e-3, 0.14), (1.0, 2, 10, 20, 1e-2, 0.27), (6.0, 10, 100, 500, 1e-4, 0.10)],
)
def test_the_tighter_of_two_bounds_is_taken(z, expected, clients, rounds, delta, saved) -> None:
    releases = [Release(z, expected, clients, "poisson")] * rounds
    rdp, pld = (epsilon(releases, delta, accountant=name) for name in ("rdp", "pld"))
    best = bound(releases, delta)
    assert best == Bound(min(rdp, pld), "pld") and 1 - pld / rdp == pytest.approx(saved, abs=0.01)


def test_an_epsilon_next_to_nothing_is_not_worked_out_in_millions_of_steps(monkeypatch) -> None:
    """Few clients, so a large delta: a step relative to such an epsilon took a minute a round."""
    library, steps = accountant._library(), []
    made = library.pld.PLDAccountant
    monkeypatch.setattr(
        library.pld, "PLDAccountant", lambda relation, step: [steps.append(step), made(relation, step)][1]
    )
    few = [Release(2.0, 2, 10, "poisson")]
    assert bound(few, 10**-1.1).epsilon == 0 and 0 < bound(few * 6, 0.08).epsilon < 0.06
    assert min(steps) >= 1e-4


def test_an_accountant_that_does_not_apply_is_refused() -> None:
    for release in (Release(1.0, 5, 10, "fixed"), Release(1.0, 10, 10, "fixed")):
        with pytest.raises(PrivacyError, match=r"accountant pld holds for Poisson sampling.*Take auto"):
            bound([release], 1e-3, accountant="pld")
    assert bound([Release(1.0, 10, 10, "fixed")], 1e-3).accountant == "gaussian"
    assert bound([Release(4.0, 5, 100, "fixed")] * 5, 1e-3).accountant == "rdp"


def test_a_ledger_goes_on_with_its_accountant(tmp_path) -> None:
    path, release = tmp_path / "privacy.jsonl", Release(1.25, 5, 10, "poisson")
    Ledger(path, 1e-2, "rdp").append(0, release)
    assert json.loads(path.read_text())["accountant"] == "rdp"
    with pytest.raises(PrivacyError, match=r"accountant rdp, this one has auto\. Set it to rdp"):
        Ledger(path, 1e-2)
    # Older releases wrote none, and had no choice.
    path.write_text(path.read_text().replace(', "accountant": "rdp"', ""))
    for name in ("auto", "rdp", "pld"):
        assert Ledger(path, 1e-2, name).releases == [release]
    path.write_text(path.read_text().replace("}", ', "accountant": "mine"}'))
    with pytest.raises(PrivacyError, match="an accountant that is none"):
        Ledger(path, 1e-2)


def test_sampling_amplifies_and_more_costs_more() -> None:
    def at(z: float, rounds: int, expected: int, sampling: str) -> float:
        return epsilon([Release(z, expected, 100, sampling)] * rounds, 1e-4)

    for sampling in ("fixed", "poisson"):
        assert at(4, 10, 10, sampling) < at(4, 10, 40, sampling)
        assert at(4, 10, 10, sampling) < at(4, 20, 10, sampling)
        assert at(4, 10, 10, sampling) < at(2, 10, 10, sampling)
    assert at(4, 10, 10, "poisson") < at(4, 10, 100, "fixed")
    assert epsilon([], 1e-4) == 0 and epsilon([Release(0.0, 10, 100, "fixed")], 1e-4) == math.inf


def test_relations_are_said_and_never_mixed() -> None:
    fixed, poisson = Release(1.0, 5, 10, "fixed"), Release(1.0, 5, 10, "poisson")
    assert fixed.neighbouring == "replace one client"
    assert poisson.neighbouring == Release(1.0, 10, 10, "fixed").neighbouring == "zero out one client"
    with pytest.raises(PrivacyError, match="different ways"):
        epsilon([fixed, poisson], 1e-3)


@pytest.mark.parametrize(
    "like", [Release(0, 10, 10, "fixed"), Release(0, 5, 50, "poisson"), Release(0, 5, 50, "fixed")]
)
def test_solved_noise_keeps_the_target_and_is_not_wasteful(like: Release) -> None:
    z = solve_noise(3.0, 1e-3, 20, like)
    after = epsilon([Release(z, like.expected, like.clients, like.sampling)] * 20, 1e-3)
    assert 2.95 < after <= 3.0


def test_what_is_spent_counts_for_the_rest() -> None:
    like = Release(0, 10, 10, "fixed")
    z = solve_noise(3.0, 1e-3, 20, like)
    spent = [Release(z, 10, 10, "fixed")] * 6  # five rounds, and one of them twice
    rest = solve_noise(3.0, 1e-3, 15, like, spent)
    assert rest > z
    assert 2.9 < epsilon([*spent, *[Release(rest, 10, 10, "fixed")] * 15], 1e-3) <= 3.0
    with pytest.raises(PrivacyError, match="have spent"):
        solve_noise(1.0, 1e-3, 5, like, [Release(1.0, 10, 10, "fixed")])


def test_ledger_outlives_a_crash(tmp_path) -> None:
    path = tmp_path / "privacy.jsonl"
    release = Release(1.25, 5, 10, "fixed")
    ledger = Ledger(path, 1e-2)
    ledger.append(0, release)
    ledger.append(0, release)  # taken again
    with path.open("a") as stream:
        stream.write('{"round": 1, "noise_mul')  # killed while writing: its noise was never drawn
    again = Ledger(path, 1e-2)
    assert again.releases == [release, release]
    again.append(1, release)
    assert [json.loads(line)["round"] for line in path.read_text().splitlines()] == [0, 0, 1]
    with pytest.raises(PrivacyError, match=r"delta 0\.01"):
        Ledger(path, 1e-3)
    path.write_text('{"round": 0}\n')
    with pytest.raises(PrivacyError, match="line 1, is damaged"):
        Ledger(path, 1e-2)
