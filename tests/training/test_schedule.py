"""The learning rate across rounds and within a turn: the authors' figures, and the corrected ones."""

import math

import pytest

from fs_fedmllm.rounds.learning_rate import round_lr, step_lr

BASE, HORIZON, RATIO = 2e-5, 50, 0.01  # w = 0.5 rounds


def rate(index, *, clamp=True, base=BASE, horizon=HORIZON, ratio=RATIO):
    return round_lr(base, index, horizon, ratio, clamp=clamp)


@pytest.mark.parametrize(
    ("index", "expected", "tolerance"),
    [(1, 1.9995e-5, 1e-9), (2, 1.9955e-5, 1e-9), (24, 1.079e-5, 1e-8), (39, 2.34e-6, 1e-8), (49, 2.0e-8, 1e-9)],
)
@pytest.mark.parametrize("clamp", [True, False])
def test_authors_rates(index, expected, tolerance, clamp):
    assert rate(index, clamp=clamp) == pytest.approx(expected, abs=tolerance)


def test_round_0_runs_at_twice_the_base_only_upstream():
    assert rate(0, clamp=False) == 4e-5
    assert rate(0, clamp=True) == 2e-5


def test_rates_by_hand():
    # base 1, T = 10, w = 2: (t + 1) / 2 = 0.5, 1; then (1 + cos(pi (t - 2) / 8)) / 2
    expected = [0.5, 1.0, 1.0, 0.9619398, 0.8535534, 0.6913417, 0.5, 0.3086583, 0.1464466, 0.0380602]
    assert [rate(t, base=1.0, horizon=10, ratio=0.2) for t in range(10)] == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("ratio", [0.0, 0.01, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("horizon", [1, 2, 25, 50])
def test_the_rate_never_exceeds_the_base_and_ends_at_zero(horizon, ratio):
    rates = [rate(t, horizon=horizon, ratio=ratio) for t in range(horizon + 3)]
    assert all(0 <= r <= BASE for r in rates)
    assert rates[horizon:] == [0.0, 0.0, 0.0]
    peak = rates.index(max(rates))
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)


def test_stopping_early_does_not_change_the_horizon():
    """The checkpoints of rounds 25 and 40 are taken from the schedule of 50 rounds."""
    assert rate(24) > 0.5 * BASE
    assert rate(24, horizon=25) < 0.01 * BASE


def inner(steps, peak=1.0):
    return [step_lr(peak, step, steps, inner="cosine") for step in range(steps)]


def test_constant_within_a_turn():
    assert [step_lr(3e-4, step, 7) for step in range(7)] == [3e-4] * 7


@pytest.mark.parametrize("rows", [1, 3, 7, 30, 43, 102, 130, 253, 358, 1071, 4284])
def test_the_authors_first_step_of_every_turn_is_a_no_op(rows):
    assert inner(max(rows // 4, 1))[0] == 0.0


def test_a_client_with_one_step_never_moves():
    # client 5 of the Hateful-Memes split at alpha = 0.5 has 3 rows, so max(3 // 4, 1) = 1 step
    assert inner(1) == [0.0]


@pytest.mark.parametrize("steps", [26, 43, 102, 253, 1071])
def test_the_mean_rate_of_a_turn_is_half_the_peak(steps):
    assert sum(inner(steps, 4e-5)) / steps == pytest.approx(2e-5, rel=0.03)


def test_the_inner_warm_up_is_a_hundredth_rounded_up():
    # 101 steps: ceil(1.01) = 2 steps of warm-up, 0 and 1/2, then the cosine from its peak
    assert inner(101)[:3] == [0.0, 0.5, 1.0]
    assert inner(101)[-1] == pytest.approx(0.5 * (1 + math.cos(math.pi * 98 / 99)))


@pytest.mark.parametrize("steps", [1, 2, 26, 101, 1071])
def test_inner_cosine_is_transformers_own(steps):
    torch = pytest.importorskip("torch")
    from transformers import get_cosine_schedule_with_warmup

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=4e-5)
    schedule = get_cosine_schedule_with_warmup(optimizer, math.ceil(0.01 * steps), steps)
    theirs = []
    for _ in range(steps):
        theirs.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert inner(steps, 4e-5) == pytest.approx(theirs, rel=1e-12, abs=1e-20)
