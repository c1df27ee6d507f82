"""Numbers from predictions, by scikit-learn, with the cases guarded in which it would return NaN."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fs_fedmllm.errors import FedMLLMError
from fs_fedmllm.evaluation.normalise import same_answer

#: How many row numbers an error message lists.
_LISTED = 5


class MetricError(FedMLLMError):
    """Scores or labels that no metric can be computed from; the message names the rows (counted from 0)."""


def choice_metrics(log_probs: np.ndarray, labels: Sequence[int], positive: int | None) -> dict[str, float]:
    """Metrics of a multiple-choice task.

    Args:
        log_probs: (rows, options) log-probabilities over the options.
        labels: index of the right option of each row.
        positive: for a binary task judged by AUC, the option whose probability is the score; else None.

    Returns:
        ``acc``, ``macro_f1`` (over all options, absent ones included as scikit-learn does for the labels that
        occur in truth or prediction), ``weighted_f1`` (weighted by how often a label is the truth), ``loss`` (mean
        negative log-likelihood), ``total``, and for a binary task ``auc`` (ties count one half) and ``auc_hard``
        (of the predicted labels, as the authors compute it). An AUC over one class is undefined and left out.

    Raises:
        MetricError: no rows, a score that is NaN or +inf, or a label that is no option.
    """
    scores = np.asarray(log_probs, dtype=float)
    truth = _labels(labels, scores.shape[1] if scores.ndim == 2 else 0)
    if scores.ndim != 2 or len(scores) != len(truth):
        raise MetricError(f"Scores of shape {scores.shape} do not fit {len(truth)} labels.")
    _refuse(np.isnan(scores).any(axis=1) | np.isposinf(scores).any(axis=1), "has a score that is NaN or +inf")
    predicted = scores.argmax(axis=1)
    numbers = label_metrics(predicted, truth)
    numbers["loss"] = float(-scores[np.arange(len(truth)), truth].mean())
    if positive is not None:
        found = option_auc(scores[:, positive], truth == positive, predicted == positive)
        numbers |= {name: value for name, value in found.items() if value is not None}
    return numbers


def label_metrics(predicted: Sequence[int] | np.ndarray, labels: Sequence[int] | np.ndarray) -> dict[str, float]:
    """``acc``, ``macro_f1``, ``weighted_f1`` and ``total`` of predicted options.

    Args:
        predicted: option indices; a negative one (unparsable) is wrong and is no class of its own.
        labels: index of the right option of each row.

    Raises:
        MetricError: no rows, or a negative label.
    """
    from sklearn.metrics import f1_score

    truth, guesses = _labels(labels, None), np.asarray(predicted)
    if guesses.shape != truth.shape:
        raise MetricError(f"{guesses.size} predictions do not fit {truth.size} labels.")
    classes = np.union1d(truth, guesses[guesses >= 0])
    macro, weighted = (
        float(f1_score(truth, guesses, labels=classes, average=average, zero_division=0))
        for average in ("macro", "weighted")
    )
    return {
        "acc": float((truth == guesses).mean()),
        "macro_f1": macro,
        "weighted_f1": weighted,
        "total": float(len(truth)),
    }


def class_metrics(
    predicted: Sequence[int] | np.ndarray, labels: Sequence[int] | np.ndarray, options: Sequence[str]
) -> dict[str, dict[str, float]]:
    """``precision``, ``recall``, ``f1`` and ``support`` (rows) of every option, by name.

    What is undefined is left out: the recall of a class that is never the truth, the precision of one that is never
    predicted, the F1 of one that is neither.

    Raises:
        MetricError: no rows, or a label that is no option.
    """
    truth, guesses = _labels(labels, len(options)), np.asarray(predicted)
    if guesses.shape != truth.shape:
        raise MetricError(f"{guesses.size} predictions do not fit {truth.size} labels.")
    table: dict[str, dict[str, float]] = {}
    for i, name in enumerate(options):
        hits = int(((truth == i) & (guesses == i)).sum())
        support, given = int((truth == i).sum()), int((guesses == i).sum())
        table[name] = {"support": float(support)}
        if given:
            table[name]["precision"] = hits / given
        if support:
            table[name]["recall"] = hits / support
        if given or support:
            table[name]["f1"] = 2 * hits / (given + support)
    return table


def auc_score(wanted: Sequence[bool] | np.ndarray, scores: Sequence[float] | np.ndarray) -> float | None:
    """Area under the ROC curve; ties count one half.

    Args:
        wanted: whether each row is of the positive class.
        scores: higher is more positive; -inf (probability 0) ranks last.

    Returns:
        None where only one class occurs, which scikit-learn answers with NaN.

    Raises:
        MetricError: no rows, or a score that is NaN or +inf.
    """
    from sklearn.metrics import roc_auc_score

    truth, ranked = np.asarray(wanted, dtype=bool), np.asarray(scores, dtype=float)
    if ranked.shape != truth.shape or not len(truth):
        raise MetricError(f"An AUC needs one score for each row; got {ranked.size} scores and {truth.size} rows.")
    _refuse(np.isnan(ranked) | np.isposinf(ranked), "has a score that is NaN or +inf")
    if truth.all() or not truth.any():
        return None
    # Ranks keep the order and the ties, and scikit-learn refuses -inf.
    return float(roc_auc_score(truth, np.unique(ranked, return_inverse=True)[1]))


def option_auc(
    scores: Sequence[float] | np.ndarray, wanted: Sequence[bool] | np.ndarray, chosen: Sequence[bool] | np.ndarray
) -> dict[str, float | None]:
    """``auc`` of the positive option's scores and ``auc_hard`` of the decisions; None where one class occurs only.

    Args:
        scores: of the positive option.
        wanted: whether it is the right one.
        chosen: whether it was decided for.

    Raises:
        MetricError: as :func:`auc_score`.
    """
    return {"auc": auc_score(wanted, scores), "auc_hard": auc_score(wanted, np.asarray(chosen, dtype=float))}


def upstream_auc(codes: Sequence[int] | np.ndarray, labels: Sequence[int] | np.ndarray) -> float | None:
    """The authors' AUC: of hard labels 0 and 1, with 2 for an unparsable answer, that is above "hateful".

    Args:
        codes: parsed answers, from :func:`fs_fedmllm.evaluation.parsing.parse_options` in ``upstream`` mode.
        labels: 0 or 1 for each row.

    Returns:
        A share (they print it times 100); None where only one class occurs.

    Raises:
        MetricError: no rows, a code that is not 0, 1 or 2, or a label that is not 0 or 1.
    """
    given = np.asarray(codes)
    _refuse(~np.isin(given, (0, 1, 2)), "has a code that is not 0, 1 or 2")
    return auc_score(_labels(labels, 2) == 1, given)


def right_answers(answers: Sequence[str], references: Sequence[str]) -> list[bool]:
    """Whether each answer matches its reference after the usual normalisation.

    Raises:
        ValueError: there are not as many answers as references.
    """
    return [same_answer(answer, reference) for answer, reference in zip(answers, references, strict=True)]


def answer_metrics(correct: Sequence[bool], kinds: Sequence[str], loss: float) -> dict[str, float]:
    """Metrics of visual question answering.

    Args:
        correct: whether each row's answer is right.
        kinds: slice of each row, ``open`` or ``closed``.
        loss: mean negative log-likelihood per token of the reference answers.

    Raises:
        MetricError: no rows.
    """
    right = np.asarray(correct, dtype=float)
    if not len(right):
        raise MetricError("There are no rows to compute a metric of.")
    numbers = {"acc": float(right.mean()), "loss": loss, "total": float(len(right))}
    for kind in sorted(set(kinds)):
        if kind:
            chosen = np.asarray([k == kind for k in kinds])
            numbers[f"{kind}_acc"] = float(right[chosen].mean())
    return numbers


def _labels(labels: Sequence[int] | np.ndarray, options: int | None) -> np.ndarray:
    """Labels as integers, each an option's index."""
    truth = np.asarray(labels)
    if not truth.size:
        raise MetricError("There are no rows to compute a metric of.")
    with np.errstate(invalid="ignore"):
        wrong = ~np.isfinite(truth.astype(float)) | (truth < 0)
        if options is not None:
            wrong |= truth >= options
    _refuse(wrong, "has no label, or one that is none of the options")
    return truth.astype(np.int64)


def _refuse(bad: np.ndarray, what: str) -> None:
    rows = np.flatnonzero(bad)
    if rows.size:
        listed = ", ".join(str(row) for row in rows[:_LISTED]) + (", ..." if rows.size > _LISTED else "")
        raise MetricError(f"{rows.size} of {bad.size} rows cannot be scored (row {listed}): each {what}.")
