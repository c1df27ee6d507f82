"""Numbers from predictions, by scikit-learn, with the cases guarded in which it would return NaN."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def choice_metrics(log_probs: np.ndarray, labels: Sequence[int], positive: int | None) -> dict[str, float]:
    """Metrics of a multiple-choice task.

    Args:
        log_probs: (rows, options) log-probabilities over the options.
        labels: index of the right option of each row.
        positive: for a binary task judged by AUC, the option whose probability is the score; else None.

    Returns:
        ``acc``, ``macro_f1`` (over all options, absent ones included as scikit-learn does for the labels that
        occur in truth or prediction), ``loss`` (mean negative log-likelihood), ``total``, and for a binary task
        ``auc`` and ``auc_hard`` (of the predicted labels, as the authors compute it). An AUC over one class is
        undefined and left out.
    """
    from sklearn.metrics import accuracy_score, f1_score, roc_auc_score

    truth = np.asarray(labels)
    predicted = log_probs.argmax(axis=1)
    numbers = {
        "acc": float(accuracy_score(truth, predicted)),
        "macro_f1": float(f1_score(truth, predicted, average="macro", zero_division=0)),
        "loss": float(-log_probs[np.arange(len(truth)), truth].mean()),
        "total": float(len(truth)),
    }
    if positive is not None:
        wanted = (truth == positive).astype(int)
        if 0 < wanted.sum() < len(wanted):
            numbers["auc"] = float(roc_auc_score(wanted, log_probs[:, positive]))
            numbers["auc_hard"] = float(roc_auc_score(wanted, (predicted == positive).astype(int)))
    return numbers


def answer_metrics(correct: Sequence[bool], kinds: Sequence[str], loss: float) -> dict[str, float]:
    """Metrics of visual question answering.

    Args:
        correct: whether each row's answer is right.
        kinds: slice of each row, ``open`` or ``closed``.
        loss: mean negative log-likelihood per token of the reference answers.
    """
    right = np.asarray(correct, dtype=float)
    numbers = {"acc": float(right.mean()), "loss": loss, "total": float(len(right))}
    for kind in sorted(set(kinds)):
        if kind:
            chosen = np.asarray([k == kind for k in kinds])
            numbers[f"{kind}_acc"] = float(right[chosen].mean())
    return numbers
