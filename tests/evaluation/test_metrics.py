"""Against scikit-learn, on the inputs it answers with NaN or refuses."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from sklearn.metrics import f1_score, precision_recall_fscore_support, roc_auc_score

from fs_fedmllm.evaluation.metrics import (
    MetricError,
    answer_metrics,
    auc_score,
    choice_metrics,
    class_metrics,
    label_metrics,
    upstream_auc,
)


def log_probs(rng: np.random.Generator, rows: int, options: int, ties: bool = False) -> np.ndarray:
    logits = rng.normal(size=(rows, options))
    if ties:
        logits = np.round(logits)
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("options", [2, 5])
def test_choice_metrics_are_scikit_learns(options, ties):
    rng = np.random.default_rng(options)
    scores = log_probs(rng, 200, options, ties)
    labels = rng.integers(options, size=200)
    numbers = choice_metrics(scores, labels.tolist(), 1 if options == 2 else None)
    guesses = scores.argmax(axis=1)
    assert numbers["acc"] == pytest.approx((guesses == labels).mean())
    assert numbers["macro_f1"] == pytest.approx(f1_score(labels, guesses, average="macro"))
    assert numbers["weighted_f1"] == pytest.approx(f1_score(labels, guesses, average="weighted"))
    assert numbers["loss"] == pytest.approx(-scores[np.arange(200), labels].mean())
    assert numbers["total"] == 200
    if options == 2:
        assert numbers["auc"] == pytest.approx(roc_auc_score(labels, scores[:, 1]))
        assert numbers["auc_hard"] == pytest.approx(roc_auc_score(labels, guesses))
    else:
        assert "auc" not in numbers


def test_all_scores_tied_is_chance():
    numbers = choice_metrics(np.log(np.full((6, 2), 0.5)), [0, 1, 0, 1, 1, 1], 1)
    assert numbers["auc"] == numbers["auc_hard"] == 0.5


def test_one_class_has_no_auc_and_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        numbers = choice_metrics(np.log([[0.4, 0.6], [0.7, 0.3]]), [1, 1], 1)
    assert "auc" not in numbers and "auc_hard" not in numbers
    assert numbers["acc"] == 0.5
    assert all(np.isfinite(list(numbers.values())))


def test_the_rows_that_cannot_be_scored_are_named():
    scores = np.log(np.full((8, 2), 0.5))
    scores[[2, 5], 0] = np.nan
    with pytest.raises(MetricError, match=r"2 of 8 rows .*row 2, 5\).*NaN"):
        choice_metrics(scores, [0] * 8, 1)
    with pytest.raises(MetricError, match=r"row 1\).*none of the options"):
        choice_metrics(np.log(np.full((3, 2), 0.5)), [0, -1, 1], 1)
    with pytest.raises(MetricError, match=r"row 2\)"):
        choice_metrics(np.log(np.full((3, 2), 0.5)), [0, 1, 2], 1)
    with pytest.raises(MetricError, match="no rows"):
        choice_metrics(np.zeros((0, 2)), [], 1)
    with pytest.raises(MetricError, match="do not fit"):
        choice_metrics(np.zeros((3, 2)), [0, 1], 1)
    with pytest.raises(MetricError, match=r"row 0, 1, 2, 3, 4, \.\.\."):
        auc_score([True] * 9, [np.nan] * 9)


def test_probability_zero_ranks_last():
    assert auc_score([False, True, True], [-np.inf, -1.0, -2.0]) == 1.0
    assert auc_score([True, False], [-np.inf, -np.inf]) == 0.5
    with pytest.raises(MetricError):
        auc_score([True, False], [np.inf, 0.0])


def test_the_authors_auc_ranks_unparsable_above_hateful():
    labels = [0, 0, 1, 1]
    assert upstream_auc([0, 2, 1, 1], labels) == pytest.approx(roc_auc_score(labels, [0, 2, 1, 1]))
    assert upstream_auc([2, 2, 1, 1], labels) == 0.0
    assert upstream_auc([0, 1], [1, 1]) is None
    with pytest.raises(MetricError, match=r"row 1\)"):
        upstream_auc([0, -1], [0, 1])


def test_an_unparsable_answer_is_wrong_and_no_class():
    numbers = label_metrics([0, 1, -1, 1], [0, 1, 0, 1])
    assert numbers["acc"] == 0.75
    assert numbers["macro_f1"] == pytest.approx((2 / 3 + 1) / 2)
    assert numbers["weighted_f1"] == pytest.approx((2 / 3 + 1) / 2)


def test_everything_unparsable():
    assert label_metrics([-1, -1], [0, 1]) == {"acc": 0.0, "macro_f1": 0.0, "weighted_f1": 0.0, "total": 2.0}


def test_class_metrics_are_scikit_learns_where_defined():
    rng = np.random.default_rng(3)
    labels, guesses = rng.integers(3, size=50), rng.integers(-1, 3, size=50)
    table = class_metrics(guesses, labels, ["a", "b", "c", "never"])
    wanted = precision_recall_fscore_support(labels, guesses, labels=[0, 1, 2])
    for i, name in enumerate("abc"):
        row = table[name]
        assert [row["precision"], row["recall"], row["f1"], row["support"]] == pytest.approx([w[i] for w in wanted])
    assert table["never"] == {"support": 0.0}


def test_open_and_closed_answers():
    numbers = answer_metrics([True, False, True], ["open", "closed", "open"], 0.5)
    assert numbers == pytest.approx({"acc": 2 / 3, "open_acc": 1.0, "closed_acc": 0.0, "loss": 0.5, "total": 3.0})
    with pytest.raises(MetricError, match="no rows"):
        answer_metrics([], [], 0.0)
