from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import f1_score, roc_auc_score

from fs_fedmllm.evaluation.metrics import MetricError
from fs_fedmllm.evaluation.row_metrics import StatisticsError, accuracy, auc, macro_f1
from fs_fedmllm.evaluation.seed_statistics import SeedDifference, detectable, paired_over_seeds
from fs_fedmllm.evaluation.statistics import bootstrap, over_seeds, paired_bootstrap


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("ties", [False, True])
def test_weights_mean_the_resampled_rows(ties):
    """Each weighted metric is scikit-learn's number on the rows repeated as often as their weight says."""
    draw = rng(1)
    labels, guesses = draw.integers(3, size=40), draw.integers(3, size=40)
    scores = np.round(draw.normal(size=40)) if ties else draw.normal(size=40)
    scores[0] = scores[1] = -np.inf
    weights = np.stack([np.bincount(draw.integers(40, size=40), minlength=40) for _ in range(50)]).astype(float)
    ranks = np.unique(scores, return_inverse=True)[1]
    f1 = macro_f1(guesses, labels).weighted(weights)
    area = auc(labels == 1, scores).weighted(weights)
    acc = accuracy(guesses == labels).weighted(weights)
    for i, weight in enumerate(weights):
        rows = np.repeat(np.arange(40), weight.astype(int))
        assert f1[i] == pytest.approx(f1_score(labels[rows], guesses[rows], average="macro", zero_division=0))
        assert area[i] == pytest.approx(roc_auc_score(labels[rows] == 1, ranks[rows]))
        assert acc[i] == pytest.approx((labels[rows] == guesses[rows]).mean())


def test_the_interval_agrees_with_scipy():
    sample = rng(2).random(80) < 0.8
    ours = bootstrap(accuracy(sample), rng(3), resamples=20000)
    theirs = stats.bootstrap(
        (sample.astype(float),), np.mean, n_resamples=20000, method="percentile", rng=rng(4)
    ).confidence_interval
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.013)
    assert ours.value == sample.mean()


def test_intervals_cover_as_often_as_they_say():
    draw = rng(8)
    hits = 0
    for _ in range(200):
        interval = bootstrap(accuracy(draw.random(100) < 0.7), draw, resamples=400)
        hits += interval.low <= 0.7 <= interval.high
    assert 0.89 <= hits / 200 <= 0.99


def test_the_same_generator_gives_the_same_interval_whatever_the_block(monkeypatch):
    metric = accuracy(rng(9).random(301) < 0.5)
    interval = bootstrap(metric, rng(1))
    assert interval != bootstrap(metric, rng(2))
    monkeypatch.setattr("fs_fedmllm.evaluation.statistics._BLOCK", 301 * 7)
    assert interval == bootstrap(metric, rng(1))


def test_grouped_rows_are_drawn_together():
    """Ten copies of each row tell no more than the row: the interval is that of the rows, not ten times narrower."""
    right = rng(10).random(50) < 0.6
    alone = bootstrap(accuracy(right), rng(11), resamples=4000)
    keys = [f"patient-{i}" for i in range(50)] * 10
    grouped = bootstrap(accuracy(np.tile(right, 10)), rng(11), resamples=4000, groups=keys)
    naive = bootstrap(accuracy(np.tile(right, 10)), rng(11), resamples=4000)
    assert (grouped.low, grouped.high) == pytest.approx((alone.low, alone.high))
    assert naive.high - naive.low < 0.5 * (alone.high - alone.low)


def test_resamples_of_one_class_are_counted_not_hidden():
    interval = bootstrap(auc([True, False, False], [2.0, 1.0, 0.0]), rng(12), resamples=500)
    assert interval.undefined > 50 and interval.resamples + interval.undefined == 500
    with pytest.raises(StatisticsError, match="undefined on these rows"):
        bootstrap(auc([True, True], [1.0, 2.0]), rng())


def test_degenerate_samples():
    perfect = bootstrap(accuracy([True] * 9), rng())
    assert (perfect.low, perfect.high) == (1.0, 1.0)
    single = bootstrap(accuracy([True, False]), rng(), groups=["one", "one"])
    assert (single.low, single.high) == (0.5, 0.5)


def test_paired_runs():
    draw = rng(13)
    labels = draw.integers(2, size=400)
    good = np.where(draw.random(400) < 0.85, labels, 1 - labels)
    bad = np.where(draw.random(400) < 0.70, labels, 1 - labels)
    better = paired_bootstrap(macro_f1(good, labels), macro_f1(bad, labels), rng(14))
    assert better.interval.low > 0 and better.p_value < 0.01
    worse = paired_bootstrap(macro_f1(bad, labels), macro_f1(good, labels), rng(14))
    assert worse.interval.high == pytest.approx(-better.interval.low)
    same = paired_bootstrap(accuracy(good == labels), accuracy(good == labels), rng(15))
    assert (same.interval.low, same.interval.high, same.p_value) == (0.0, 0.0, 1.0)
    with pytest.raises(StatisticsError, match="same rows"):
        paired_bootstrap(accuracy([True]), accuracy([True, False]), rng())


def test_paired_false_alarms_are_as_rare_as_they_should_be():
    draw = rng(16)
    alarms = 0
    for _ in range(150):
        first, second = draw.random(120) < 0.6, draw.random(120) < 0.6
        alarms += paired_bootstrap(accuracy(first), accuracy(second), draw, resamples=400).p_value < 0.1
    assert alarms / 150 < 0.18


def test_over_seeds():
    spread = over_seeds([1.0, 2.0, 4.0])
    assert (spread.mean, spread.std, spread.seeds) == (
        pytest.approx(7 / 3),
        pytest.approx(np.std([1, 2, 4], ddof=1)),
        3,
    )
    assert over_seeds([5.0]).std is None
    with pytest.raises(StatisticsError):
        over_seeds([])


def test_a_difference_over_seeds_is_the_paired_t_test():
    one, two = [0.93, 0.90, 0.95, 0.91, 0.94], [0.66, 0.70, 0.58, 0.72, 0.65]
    found = paired_over_seeds(one, two)
    known = stats.ttest_rel(one, two)
    interval = known.confidence_interval(0.95)
    assert found.p_value == pytest.approx(known.pvalue)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.mean == pytest.approx(0.264) and found.seeds == 5
    # Cohen 1988: with five pairs a t-test needs d = 1.68 for a power of 0.8; with ten, 1.00.
    assert detectable(5) == pytest.approx(1.682, abs=2e-3) and detectable(10) == pytest.approx(0.997, abs=2e-3)
    assert found.detectable == pytest.approx(detectable(5) * np.std(np.subtract(one, two), ddof=1))


def test_what_is_detectable_is_seen_four_times_out_of_five():
    rng = np.random.default_rng(3)
    for seeds in (2, 3, 6):
        draws = rng.normal(detectable(seeds), 1.0, (4000, seeds))
        seen = np.mean(stats.ttest_1samp(draws, 0.0, axis=1).pvalue < 0.05)
        assert seen == pytest.approx(0.8, abs=0.03)


def test_seeds_that_all_agree_and_seeds_that_do_not_fit():
    assert paired_over_seeds([0.5, 0.5], [0.5, 0.5]) == SeedDifference(0.0, 0.0, 0.0, 1.0, 2, 0.0)
    for one, two in (([0.5], [0.4]), ([0.5, 0.4], [0.5]), ([], [])):
        with pytest.raises(StatisticsError, match="same two seeds or more"):
            paired_over_seeds(one, two)


def test_wrong_arguments_are_refused():
    metric = accuracy([True, False])
    for wrong in ({"resamples": 0}, {"groups": ["a"]}):
        with pytest.raises(StatisticsError):
            bootstrap(metric, rng(), **wrong)
    with pytest.raises(MetricError, match="Row 1"):
        accuracy([1.0, np.nan])
    with pytest.raises(MetricError, match="row 1"):
        auc([True, False], [0.0, np.nan])


def test_statistics_of_a_run_do_not_import_scipy() -> None:
    """Every process of every run imports them, and half a second of scipy is for comparisons over seeds only."""
    code = "import sys, fs_fedmllm.evaluation.statistics; assert not any(n.startswith('scipy') for n in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
