"""``evaluate`` module: exact match of short answers after the usual normalisation."""

from __future__ import annotations

import datasets
import evaluate

from fs_fedmllm.evaluation.metrics import answer_metrics, right_answers


class VqaAccuracy(evaluate.Metric):
    """Answers in, ``acc`` out, and with ``kinds`` also ``open_acc`` and ``closed_acc``."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Exact match after lower-casing and dropping articles and punctuation.",
            citation="",
            inputs_description="predictions and references: answers; kinds: open or closed, for each row.",
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
            ),
        )

    def _compute(
        self, predictions: list[str], references: list[str], kinds: list[str] | None = None
    ) -> dict[str, float]:
        correct = right_answers(predictions, references)
        numbers = answer_metrics(correct, kinds or [""] * len(correct), 0.0)
        return {name: value for name, value in numbers.items() if name.endswith("acc")}
