"""The score of answers to a file of rows, where its rows say what is right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fs_fedmllm.data.columns import missing
from fs_fedmllm.data.joined import group_names
from fs_fedmllm.data.labels import Options
from fs_fedmllm.data.row_values import Row
from fs_fedmllm.data.template import Template
from fs_fedmllm.evaluation.metrics import right_answers
from fs_fedmllm.evaluation.predictions import Prediction
from fs_fedmllm.evaluation.slices import intervals
from fs_fedmllm.tools.adapters.predict import PLAIN, Answer
from fs_fedmllm.tools.adapters.row_files import RowForm
from fs_fedmllm.tools.adapters.trained_rows import TrainedOn


@dataclass(frozen=True)
class Score:
    """How right answers are.

    Attributes:
        right: of each row, or None where the row does not say what is right.
        figures: metric -> ``value``, ``low`` and ``high`` (95 % bootstrap interval over the rows, those of a
            group together).
        trained: what of the rows stood in the training of the adapter's run.
    """

    right: Sequence[bool | None]
    figures: Mapping[str, Mapping[str, float]]
    trained: TrainedOn | None = None

    def said(self) -> str:
        """In one line."""
        known = sum(own is not None for own in self.right)
        of = "" if known == len(self.right) else f" of {len(self.right):,}"
        listed = ", ".join(
            f"{name} {100 * own['value']:.1f} % [{100 * own['low']:.1f}, {100 * own['high']:.1f}]"
            for name, own in self.figures.items()
        )
        trained = f"; {self.trained.said()}" if self.trained is not None else ""
        return f"score: {listed} over the {known:,}{of} rows that have a label{trained}"


def read_truths(file: Path, form: RowForm = PLAIN) -> list[tuple[Row, str]]:
    """What each row of a file says is right (``label``, ``answer``), with its ``group``, and where it stands."""
    found: list[tuple[Row, str]] = []
    keys: list[dict[str, str]] = []
    for where, original, row in form.rows(file):
        found.append(({name: row.get(name) for name in ("label", "answer")}, where))
        keys.append({name: str(original[name]) for name in form.together if not missing(original.get(name))})
    groups = group_names(keys, form.together)
    return [({**row, "group": group}, where) for (row, where), group in zip(found, groups, strict=True)]


def score(answers: Sequence[Answer], truths: Sequence[tuple[Row, str]], template: Template | None) -> Score | None:
    """Score answers; None where no row says what is right.

    Args:
        answers: in the order of the rows.
        truths: as :func:`read_truths` gives them.
        template: that the rows without a question of their own were asked with.

    Raises:
        DataError: a label is none of the options.
    """
    options = Options.of(template) if template is not None and template.task == "choice" else None
    found: list[Prediction | None] = []
    for answer, (row, where) in zip(answers, truths, strict=True):
        found.append(_prediction(answer, row, where, options))
    scored = [
        replace(p, group=row.get("group", "")) for p, (row, _) in zip(found, truths, strict=True) if p is not None
    ]
    if not scored:
        return None
    positive = template.auc_option if template is not None else None
    names = ["acc", *(["macro_f1"] if options is not None else []), *(["auc"] if positive is not None else [])]
    figures = {name.removeprefix("test_"): own for name, own in intervals(scored, names, positive, 0).items()}
    return Score([None if p is None else p.correct for p in found], figures)


def _prediction(answer: Answer, row: Row, where: str, options: Options | None) -> Prediction | None:
    if missing(row["label"]) and missing(row["answer"]):
        return None
    if answer.probabilities is None:
        if missing(row["answer"]):
            return None
        reference = str(row["answer"])
        (right,) = right_answers([answer.answer], [reference])
        return Prediction(answer.id, "both", right, reference=reference, answer=answer.answer)
    assert options is not None
    label = options.label(row, where)
    decision = list(answer.probabilities).index(answer.answer)
    log_probs = tuple(float(np.log(max(share, 1e-300))) for share in answer.probabilities.values())
    return Prediction(answer.id, "both", decision == label, label=label, decision=decision, log_probs=log_probs)


def said_right(score: Score | None, index: int) -> dict[str, Any]:
    """What a row's line says beside its answer."""
    right = score.right[index] if score is not None else None
    return {} if right is None else {"right": right}
