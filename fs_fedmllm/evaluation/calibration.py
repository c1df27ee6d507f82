"""Whether a model's probabilities mean what they say: expected calibration error and the reliability table.

Naeini, Cooper and Hauskrecht, AAAI 2015; Guo, Pleiss, Sun and Weinberger, ICML 2017 (ten bins of equal width over the
probability of the chosen option).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fs_fedmllm.evaluation.predictions import Prediction
from fs_fedmllm.evaluation.row_metrics import Array, RowMetric

BINS = 10


def _confidence(predictions: Sequence[Prediction]) -> tuple[Array, Array] | None:
    """(confidence, whether right) of each row; None unless every row has probabilities."""
    if not predictions or any(p.log_probs is None for p in predictions):
        return None
    confidence = np.array([np.exp(max(p.log_probs or (0.0,))) for p in predictions])
    return np.clip(confidence, 0.0, 1.0), np.array([p.correct for p in predictions], dtype=float)


def _bins(confidence: Array) -> Array:
    """The bin of each row: (0, 0.1], (0.1, 0.2] and so on."""
    return np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)


def calibration_error(predictions: Sequence[Prediction]) -> RowMetric | None:
    """The expected calibration error as a function of row weights; None where rows have no probabilities.

    Args:
        predictions: of one view and one adapter.
    """
    found = _confidence(predictions)
    if found is None:
        return None
    confidence, right = found
    one_hot = np.eye(BINS)[_bins(confidence)]
    gap = (right - confidence)[:, None] * one_hot
    return RowMetric("ece", len(right), lambda w: np.abs(w @ gap).sum(axis=1) / w.sum(axis=1))


def calibration(predictions: Sequence[Prediction]) -> dict[str, Any] | None:
    """Error, means and the reliability table; None where rows have no probabilities.

    Args:
        predictions: of one view and one adapter.

    Returns:
        ``ece``, ``confidence`` and ``acc`` (means over the rows), and ``bins``: for each bin that has rows ``low``,
        ``high``, ``rows``, ``confidence`` and ``acc``.
    """
    found, error = _confidence(predictions), calibration_error(predictions)
    if found is None or error is None:
        return None
    confidence, right = found
    place = _bins(confidence)
    bins = [
        {
            "low": index / BINS,
            "high": (index + 1) / BINS,
            "rows": int((place == index).sum()),
            "confidence": float(confidence[place == index].mean()),
            "acc": float(right[place == index].mean()),
        }
        for index in range(BINS)
        if (place == index).any()
    ]
    return {"ece": error.value, "confidence": float(confidence.mean()), "acc": float(right.mean()), "bins": bins}


def confusion(predictions: Sequence[Prediction], options: Sequence[str]) -> dict[str, Any] | None:
    """How often each class was taken for which; None where rows have no classes.

    Args:
        predictions: of one view and one adapter.
        options: names of the classes.

    Returns:
        ``options``; ``counts``: a row for each true class, a column for each decided one, and, where a text was parsed
        that holds none, a last column ``none``.
    """
    if not options or not predictions or any(p.label is None or p.decision is None for p in predictions):
        return None
    size = len(options)
    counts = np.zeros((size, size + 1), dtype=int)
    for p in predictions:
        decision = p.decision if p.decision is not None and 0 <= p.decision < size else size
        counts[p.label or 0, decision] += 1
    columns = [*options, "none"] if counts[:, size].any() else list(options)
    return {"options": list(options), "columns": columns, "counts": counts[:, : len(columns)].tolist()}
