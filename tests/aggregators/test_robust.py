"""Robust means: numbers by hand, and attacks under which the plain mean fails and the rule holds."""

import itertools

import pytest
import torch

from fs_fedmllm.aggregators.robust import (
    coordinate_median,
    krum_scores,
    krum_selection,
    norm_bounded,
    norms,
    trimmed_mean,
)
from fs_fedmllm.aggregators.updates import weighted_mean
from fs_fedmllm.errors import ConfigError, UpdateError


def scalars(*values, weights=None):
    """Clients 1, 2, ... whose delta is one number."""
    weights = weights or [1.0] * len(values)
    return [(i, w, {"w": torch.tensor([v])}) for i, (v, w) in enumerate(zip(values, weights, strict=True), start=1)]


def multi_krum(updates, *, byzantine, keep=1):
    """What an aggregator makes of the selection: the uniform mean of those that are kept."""
    kept = krum_selection(updates, byzantine=byzantine, keep=keep)
    return weighted_mean([(client, 1.0, delta) for client, _, delta in updates if client in kept])


# By hand ------------------------------------------------------------------------------------------------------------


def test_krum_by_hand():
    # 0, 1, 2.5, 10, 100 with f = 1: each keeps its n - f - 2 = 2 nearest.
    # 0: 1 + 6.25; 1: 1 + 2.25; 2.5: 2.25 + 6.25; 10: 56.25 + 81; 100: 8100 + 9506.25
    updates = scalars(0.0, 1.0, 2.5, 10.0, 100.0)
    assert krum_scores(updates, byzantine=1) == {1: 7.25, 2: 3.25, 3: 8.5, 4: 137.25, 5: 17606.25}
    assert multi_krum(updates, byzantine=1)["w"].item() == 1.0
    assert krum_selection(updates, byzantine=1, keep=3) == [1, 2, 3]
    assert multi_krum(updates, byzantine=1, keep=3)["w"].item() == pytest.approx(3.5 / 3)


def test_krum_ties_go_to_the_lower_id():
    assert krum_selection(scalars(1.0, 1.0, 1.0, 1.0, 1.0), byzantine=1) == [1]


def test_krum_measures_the_whole_update():
    """A client that is near in one tensor and far in another is far."""
    updates = [(i, 1.0, {"a": torch.tensor([0.1 * i]), "b": torch.tensor([0.0, 0.1 * i])}) for i in range(1, 6)]
    updates.append((6, 1.0, {"a": torch.tensor([0.3]), "b": torch.tensor([50.0, 0.3])}))
    assert 6 not in krum_selection(updates, byzantine=1, keep=5)


@pytest.mark.parametrize(("clients", "byzantine"), [(2, 0), (4, 1), (6, 2), (8, 3)])
def test_krum_needs_2f_plus_3(clients, byzantine):
    with pytest.raises(ConfigError, match=f"at least {2 * byzantine + 3} updates"):
        multi_krum(scalars(*map(float, range(clients))), byzantine=byzantine)
    multi_krum(scalars(*map(float, range(clients + 1))), byzantine=byzantine)


@pytest.mark.parametrize("keep", [0, 5, 6])
def test_multi_krum_cannot_keep_more_than_the_honest(keep):
    with pytest.raises(ConfigError, match=f"cannot keep {keep} of 5"):
        multi_krum(scalars(0.0, 1.0, 2.0, 3.0, 4.0), byzantine=1, keep=keep)


def test_median_by_hand():
    assert coordinate_median(scalars(5.0, -1.0, 100.0))["w"].item() == 5.0
    assert coordinate_median(scalars(5.0, -1.0, 100.0, 7.0))["w"].item() == 6.0
    assert coordinate_median(scalars(5.0))["w"].item() == 5.0


def test_trimmed_mean_by_hand():
    updates = scalars(-50.0, 1.0, 2.0, 6.0, 1000.0)
    assert trimmed_mean(updates, trim=0.2)["w"].item() == 3.0
    assert trimmed_mean(updates, trim=0.4)["w"].item() == 2.0
    assert trimmed_mean(updates, trim=0.21)["w"].item() == 2.0  # 1.05 of 5 clients: 2
    assert trimmed_mean(updates, trim=0.0)["w"].item() == pytest.approx(959 / 5)


def test_a_tenth_of_thirty_is_three():
    updates = scalars(*[0.0] * 24, *[1e6] * 3, *[-9.0] * 3)
    assert trimmed_mean(updates, trim=0.1)["w"].item() == 0.0
    assert trimmed_mean(scalars(*[0.0] * 26, 5.0, *[1e6] * 3), trim=0.1)["w"].item() == pytest.approx(5 / 24)


@pytest.mark.parametrize(("trim", "clients"), [(0.5, 5), (-0.1, 5), (0.4, 2), (0.3, 2), (0.49, 4)])
def test_trimmed_mean_must_leave_someone(trim, clients):
    with pytest.raises(ConfigError, match="leaves none"):
        trimmed_mean(scalars(*map(float, range(clients))), trim=trim)


def test_norm_bound_by_hand():
    # norms 5 and 10; the lower of the middle two, 5: (3, 4) stays, (6, -8) becomes (3, -4); weights 1 and 3
    updates = [
        (1, 1.0, {"a": torch.tensor([3.0]), "b": torch.tensor([4.0])}),
        (2, 3.0, {"a": torch.tensor([6.0]), "b": torch.tensor([-8.0])}),
    ]
    assert norms(updates) == {1: 5.0, 2: 10.0}
    got = weighted_mean(norm_bounded(updates))
    assert (got["a"].item(), got["b"].item()) == pytest.approx((3.0, (4 - 12) / 4))


# All rules ----------------------------------------------------------------------------------------------------------

RULES = {
    "krum": lambda updates: multi_krum(updates, byzantine=3),
    "multi_krum": lambda updates: multi_krum(updates, byzantine=3, keep=5),
    "median": coordinate_median,
    "trimmed_mean": lambda updates: trimmed_mean(updates, trim=0.3),
    "norm_bound": lambda updates: weighted_mean(norm_bounded(updates)),
}


def honest(count=10, seed=0, size=0.01):
    """Clients around one true direction, with noise of the same length as the direction."""
    generator = torch.Generator().manual_seed(seed)
    truth = {"a": size * torch.randn(8, 6, generator=generator), "b": size * torch.randn(30, generator=generator)}
    return truth, [
        (i, 10.0, {n: t + size * torch.randn(t.shape, generator=generator) for n, t in truth.items()})
        for i in range(1, count + 1)
    ]


def distance(one, other):
    return sum(float((one[name] - other[name]).square().sum()) for name in one) ** 0.5


def cosine(one, other):
    dot = sum(float((one[name] * other[name]).sum()) for name in one)
    zero = {name: torch.zeros_like(t) for name, t in one.items()}
    return dot / (distance(one, zero) * distance(other, zero))


def sign_flip(update):
    return {n: -100.0 * t for n, t in update.items()}


def noise(update):
    return {n: 5.0 * torch.randn(t.shape, generator=torch.Generator().manual_seed(9)) for n, t in update.items()}


def backdoor(update):
    """Model replacement: honest everywhere but for a few coordinates, scaled up."""
    return {n: t + 50.0 * (torch.arange(t.numel()) < 3).reshape(t.shape) for n, t in update.items()}


def huge(update):
    return {n: torch.full_like(t, 1e14) for n, t in update.items()}


ATTACKS = {"sign_flip": sign_flip, "noise": noise, "backdoor": backdoor, "huge": huge}


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_three_attackers_of_ten(rule, attack):
    truth, updates = honest()
    clean = weighted_mean(updates[3:])
    attacked = [(c, w, attack(d)) if c <= 3 else (c, w, d) for c, w, d in updates]
    plain, robust = weighted_mean(attacked), rule(attacked)
    size = distance(truth, {name: torch.zeros_like(t) for name, t in truth.items()})
    assert distance(plain, clean) > 20 * size, "the attack is too weak to show anything"
    assert distance(robust, clean) < 1.5 * size
    assert cosine(robust, truth) > 0.35  # still goes the honest way


@pytest.mark.parametrize("rule", [n for n in RULES if n != "norm_bound"])
def test_a_claim_of_many_rows_does_not_help_the_attacker(rule):
    _, updates = honest()
    attacked = [(c, 1e9, sign_flip(d)) if c <= 3 else (c, w, d) for c, w, d in updates]
    honest_claim = [(c, 10.0, d) for c, _, d in attacked]
    first, second = RULES[rule](attacked), RULES[rule](honest_claim)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_without_attackers_the_rules_agree_with_the_truth(rule):
    truth, updates = honest(count=30)
    assert cosine(rule(updates), truth) > 0.6


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_arrival_order_does_not_matter(rule):
    _, updates = honest()
    expected = rule(updates)
    for shuffled in (updates[::-1], updates[5:] + updates[:5]):
        got = rule(shuffled)
        assert all(torch.equal(expected[name], got[name]) for name in expected)


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_no_op_and_inputs(rule):
    _, updates = honest(size=0.0)
    assert all(not tensor.any() for tensor in rule(updates).values())
    _, updates = honest()
    rule(updates)
    for (_, _, got), (_, _, again) in zip(updates, honest()[1], strict=True):
        assert all(torch.equal(got[name], again[name]) for name in got)


@pytest.mark.parametrize("rule", [n for n in RULES if n != "norm_bound"])
def test_an_incomplete_update_is_named(rule):
    _, updates = honest()
    del updates[4][2]["b"]
    with pytest.raises(UpdateError, match="Client 5 did not send 'b'"):
        RULES[rule](updates)


def test_robust_rules_lie_within_the_honest_range():
    """With f attackers, every coordinate of median and trimmed mean lies between honest values, whatever they send."""
    honest_values = [0.0, 1.0, 2.0, 3.0, 4.0]
    for bad in itertools.product((-1e9, 1.5, 1e9), repeat=2):
        updates = scalars(*honest_values, *bad)
        assert 0.0 <= coordinate_median(updates)["w"].item() <= 4.0
        assert 0.0 <= trimmed_mean(updates, trim=2 / 7)["w"].item() <= 4.0
