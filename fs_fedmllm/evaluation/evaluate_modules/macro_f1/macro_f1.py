"""``evaluate`` module: accuracy, macro and weighted F1 of predicted options; -1 (unparsable) is wrong, no class."""

from __future__ import annotations

import datasets
import evaluate

from fs_fedmllm.evaluation.metrics import label_metrics


class MacroF1(evaluate.Metric):
    """Options in, ``acc``, ``macro_f1`` and ``weighted_f1`` out."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Macro F1 over the options that occur, weighted F1 and accuracy, as scikit-learn has them.",
            citation="",
            inputs_description="predictions: option indices, -1 where unparsable; references: option indices.",
            features=datasets.Features(
                {"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}
            ),
        )

    def _compute(self, predictions: list[int], references: list[int]) -> dict[str, float]:
        numbers = label_metrics(predictions, references)
        return {name: numbers[name] for name in ("acc", "macro_f1", "weighted_f1")}
