"""``evaluate`` module: AUC from the likelihood of one option, beside that of hard labels."""

from __future__ import annotations

import datasets
import evaluate
import numpy as np

from fs_fedmllm.evaluation.metrics import auc_score


class OptionAuc(evaluate.Metric):
    """Scores of the positive option in, ``auc`` and ``auc_hard`` out; both None where one class occurs only."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Area under the ROC curve, of scores and of the labels that a threshold makes of them.",
            citation="",
            inputs_description="predictions: log-probability of the positive option; references: 0 or 1. "
            "threshold: scores above it are hard label 1 (default log 0.5).",
            features=datasets.Features(
                {"predictions": datasets.Value("float64"), "references": datasets.Value("int64")}
            ),
        )

    def _compute(
        self, predictions: list[float], references: list[int], threshold: float = float(np.log(0.5))
    ) -> dict[str, float | None]:
        wanted = np.asarray(references) == 1
        hard = np.asarray(predictions) > threshold
        return {"auc": auc_score(wanted, predictions), "auc_hard": auc_score(wanted, hard)}
