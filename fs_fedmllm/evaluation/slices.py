"""A run's figures by modality, class and client, with intervals, from its predictions alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fs_fedmllm.config.open_names import OUTSIDE_METRICS
from fs_fedmllm.data.sample import Sample
from fs_fedmllm.data.template import Template
from fs_fedmllm.evaluation.metrics import class_metrics
from fs_fedmllm.evaluation.predictions import Prediction, by_client, shown_as
from fs_fedmllm.evaluation.row_metrics import (
    RowMetric,
    StatisticsError,
    accuracy,
    among,
    auc,
    macro_f1,
    mean_of,
)
from fs_fedmllm.evaluation.statistics import bootstrap

#: How a metric of a view is called in an evaluation: test_acc, test_image_acc, test_text_acc.
PREFIXES = {"both": "test_", "image": "test_image_", "text": "test_text_"}
#: Resamples of an interval that goes into results.json.
RESAMPLES = 1000


def row_metric(name: str, predictions: Sequence[Prediction], positive: int | None = None) -> RowMetric | None:
    """A metric of the predictions as a function of row weights; None if it is no mean or rank over rows.

    Args:
        name: without its split, for example ``acc``, ``macro_f1``, ``auc``, ``auc_hard``, ``loss`` or ``open_acc``.
        predictions: of one view. Several clients' (Local) give the uniform mean over the clients.
        positive: the option whose probability is the score of the AUC.
    """
    metrics = [_metric(name, part, positive) for part in by_client(predictions).values()]
    kept = [metric for metric in metrics if metric is not None]
    return mean_of(kept) if kept and len(kept) == len(metrics) else None


def _metric(name: str, rows: Sequence[Prediction], positive: int | None) -> RowMetric | None:
    correct = accuracy([p.correct for p in rows])
    if name == "acc":
        return correct
    if name in OUTSIDE_METRICS:
        outside: RowMetric | None = OUTSIDE_METRICS[name](rows)
        return outside
    if name.endswith("_acc"):
        chosen = [p.kind == name.removesuffix("_acc") for p in rows]
        return among(correct, chosen) if any(chosen) else None
    if any(p.label is None or p.decision is None for p in rows):
        return None
    labels, decisions = np.array([p.label for p in rows]), np.array([p.decision for p in rows])
    if name == "macro_f1":
        return macro_f1(decisions, labels)
    scores = np.array([p.log_probs for p in rows]) if all(p.log_probs is not None for p in rows) else None
    if name == "loss" and scores is not None:
        own = accuracy(-scores[np.arange(len(rows)), labels])
        return RowMetric("loss", own.rows, own.weighted)
    if name in ("auc", "auc_hard") and positive is not None:
        if name == "auc" and scores is not None:
            return auc(labels == positive, scores[:, positive])
        return auc(labels == positive, decisions == positive if scores is not None else decisions)
    return None


def groups_of(predictions: Sequence[Prediction]) -> list[object]:
    """Which rows are resampled together."""
    return [("group", p.group) if p.group else ("row", p.id) for p in predictions]


def intervals(
    predictions: Sequence[Prediction], names: Sequence[str], positive: int | None, seed: int
) -> dict[str, dict[str, float]]:
    """95 % bootstrap intervals over the test rows, of every view that was predicted.

    Args:
        predictions: of a run.
        names: metrics, without their split; those that these rows do not have are left out.
        positive: as for :func:`row_metric`.
        seed: of the resamples.

    Returns:
        Name of the metric with its view (``test_image_acc``) -> ``value``, ``low``, ``high``.
    """
    found: dict[str, dict[str, float]] = {}
    for shown, prefix in PREFIXES.items():
        rows = shown_as(predictions, shown)
        if not rows:
            continue
        for name in names:
            metric = row_metric(name, rows, positive)
            if metric is None or np.isnan(metric.value):
                continue
            if interval := interval_of(metric, rows, seed):
                found[prefix + name] = interval
    return found


def interval_of(metric: RowMetric, predictions: Sequence[Prediction], seed: int) -> dict[str, float]:
    """95 % bootstrap interval of a metric over its rows; empty where it is undefined on every resample.

    Args:
        metric: of the predictions.
        predictions: of one view.
        seed: of the resamples.

    Returns:
        ``value``, ``low`` and ``high``.
    """
    first = next(iter(by_client(predictions).values()))
    try:
        found = bootstrap(metric, np.random.default_rng(seed), resamples=RESAMPLES, groups=groups_of(first))
    except StatisticsError:
        return {}
    return {"value": found.value, "low": found.low, "high": found.high}


def class_slices(predictions: Sequence[Prediction], options: Sequence[str]) -> dict[str, dict[str, float]]:
    """Precision, recall, F1 and support of every class, of the test rows with all that they have.

    Those of Local are over the answers of all clients together.
    """
    rows = [p for p in shown_as(predictions, "both") if p.label is not None and p.decision is not None]
    if not rows or not options:
        return {}
    return class_metrics([p.decision or 0 for p in rows], [p.label or 0 for p in rows], options)


def client_slices(
    predictions: Sequence[Prediction], clients: Mapping[int, Sequence[Sample]]
) -> dict[str, dict[str, float]]:
    """Accuracy as each client would meet it: test rows weighted by its labels, shown as its own rows are.

    A client with images only of class 1 asks other things of a model than the test set does. Each view's accuracy per
    label is weighted by how many of the client's training rows have that label and show that.

    Args:
        predictions: of a run.
        clients: client -> its training rows.

    Returns:
        Client -> ``rows``, ``acc``, and ``covered``: the share of its rows whose view and label the test rows have
        predictions for (the single-modality views need ``fedmllm.eval.slices``). A client with nothing covered has
        no ``acc``. Under Local, each client's own adapter is meant.
    """
    apart = by_client(predictions)
    found: dict[str, dict[str, float]] = {}
    for client, rows in sorted(clients.items()):
        own = apart.get(client, apart.get(None, []))
        right: dict[tuple[str, int | None], list[bool]] = {}
        for p in own:
            right.setdefault((p.shown, p.label), []).append(p.correct)
        # A row that asks its own question needs an image and no text.
        wanted = Counter(
            ("both" if row.question is not None and row.image is not None else row.presence, row.label) for row in rows
        )
        covered = {key: count for key, count in wanted.items() if key in right}
        total = sum(covered.values())
        found[str(client)] = {"rows": float(len(rows)), "covered": total / len(rows) if rows else 0.0}
        if total:
            found[str(client)]["acc"] = sum(n * float(np.mean(right[key])) for key, n in covered.items()) / total
    return found


def slice_figures(
    predictions: Sequence[Prediction],
    template: Template,
    *,
    clients: Mapping[int, Sequence[Sample]],
    seed: int,
    further: Sequence[str] = (),
) -> dict[str, Any]:
    """What results.json says of a run's slices: ``intervals``, ``classes`` and ``clients``."""
    kinds = sorted({p.kind for p in predictions if p.kind})
    names = dict.fromkeys(template.metrics)
    if len(kinds) > 1:
        names |= dict.fromkeys(f"{kind}_acc" for kind in kinds)
    if template.options:
        names["macro_f1"] = None
    names |= dict.fromkeys(further)
    return {
        "intervals": intervals(predictions, list(names), template.auc_option, seed),
        "classes": class_slices(predictions, template.options),
        "clients": client_slices(predictions, clients),
    }
