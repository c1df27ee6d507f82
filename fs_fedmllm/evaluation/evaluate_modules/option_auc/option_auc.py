"""``evaluate`` module: AUC from the likelihood of one option, beside that of hard labels."""

from __future__ import annotations

import datasets
import evaluate
import numpy as np

from fs_fedmllm.evaluation.metrics import option_auc


class OptionAuc(evaluate.Metric):
    """Scores of the positive option in, ``auc`` and ``auc_hard`` out; both None where one class occurs only."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Area under the ROC curve, of scores and of the labels that a threshold makes of them.",
            citation="",
            inputs_description="predictions: log-probability of the positive option; references: 0 or 1. "
            "chosen: whether each row was decided for the option; without it, whether its score is above threshold "
            "(default log 0.5).",
            features=datasets.Features(
                {"predictions": datasets.Value("float64"), "references": datasets.Value("int64")}
            ),
        )

    def _compute(
        self,
        predictions: list[float],
        references: list[int],
        chosen: list[bool] | None = None,
        threshold: float = float(np.log(0.5)),
    ) -> dict[str, float | None]:
        decided = np.asarray(predictions) > threshold if chosen is None else np.asarray(chosen, dtype=bool)
        return option_auc(predictions, np.asarray(references) == 1, decided)
