"""What a run predicted for each row at its last evaluation: the ground of slices, intervals and paired tests.

They lie in ``predictions.jsonl`` of the run folder (``predictions_<name>.jsonl`` for a further test set), a line per
row and view of it, so that a report never runs a model again.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fs_fedmllm.errors import FedMLLMError
from fs_fedmllm.files.atomic import write_atomically
from fs_fedmllm.files.untrusted import RECORDED, parse_json, read_regular

FILE = "predictions.jsonl"


def file_of(test_set: str = "", stem: str = "predictions", ending: str = ".jsonl") -> str:
    """The name of a file about test rows: of the run's own, or of a further set (``predictions_slake.jsonl``)."""
    return f"{stem}_{test_set}{ending}" if test_set else stem + ending


class PredictionsError(FedMLLMError):
    """A file of predictions that cannot be read, or two that do not describe the same rows."""


@dataclass(frozen=True)
class Prediction:
    """One row, as it was shown and answered.

    Attributes:
        id: of the row, unique within its split.
        shown: what the row was shown with: ``both`` (all that it has), ``image`` or ``text``.
        correct: whether the answer is right.
        kind: slice of the evaluation, such as ``open`` or ``closed``; empty if there is none.
        group: rows with the same one belong together and are resampled together; empty: the row stands alone.
        label: index of the right option; None for open answers.
        decision: index of the chosen option, negative if unparsable; None for open answers.
        log_probs: log-probability of each option; None where a text was parsed.
        question: as the model was asked it; None where the template asks one question of every row.
        reference: the right answer, for open answers.
        answer: the generated text; None where none was generated.
        client: whose adapter answered, for the baseline Local; None for a global adapter.
    """

    id: str
    shown: str
    correct: bool
    kind: str = ""
    group: str = ""
    label: int | None = None
    decision: int | None = None
    log_probs: tuple[float, ...] | None = None
    question: str | None = None
    reference: str | None = None
    answer: str | None = None
    client: int | None = None


def write_predictions(path: Path, predictions: Iterable[Prediction]) -> None:
    """Write JSON Lines; what is not there is left out, an empty answer is not. Log-probabilities keep six decimals."""
    lines = []
    for prediction in predictions:
        line = {k: v for k, v in vars(prediction).items() if v != getattr(Prediction, k, None)}
        if prediction.log_probs is not None:
            line["log_probs"] = [round(value, 6) for value in prediction.log_probs]
        lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    write_atomically(path, "".join(lines).encode())


_KINDS: dict[str, tuple[type, ...]] = {
    "id": (str,),
    "shown": (str,),
    "correct": (bool,),
    "kind": (str,),
    "group": (str,),
    "label": (int,),
    "decision": (int,),
    "log_probs": (list,),
    "question": (str,),
    "reference": (str,),
    "answer": (str,),
    "client": (int,),
}


def read_predictions(path: Path) -> list[Prediction]:
    """Read JSON Lines.

    Raises:
        PredictionsError: the file cannot be read, or a line is no prediction; the message names the line.
    """
    try:
        lines = (
            read_regular(path, RECORDED).decode("utf-8").split("\n")
        )  # splitlines() would cut at U+2028 inside a text
    except (OSError, UnicodeDecodeError) as error:
        raise PredictionsError(f"Predictions cannot be read from {path}: {error}") from error
    return [_prediction(line, f"{path}:{number}") for number, line in enumerate(lines, start=1) if line.strip()]


def _prediction(line: str, where: str) -> Prediction:
    try:
        raw: Any = parse_json(line)
    except ValueError as error:
        raise PredictionsError(f"{where} is no JSON: {error}") from error
    if not isinstance(raw, dict) or not {"id", "shown", "correct"} <= set(raw):
        raise PredictionsError(f"{where} must be a mapping with id, shown and correct.")
    for name, value in raw.items():
        if name not in _KINDS or not isinstance(value, _KINDS[name]):
            raise PredictionsError(f"{where}: {name!r} is unknown, or its value {value!r} is of the wrong kind.")
    if "log_probs" in raw:
        if not all(isinstance(value, int | float) for value in raw["log_probs"]):
            raise PredictionsError(f"{where}: 'log_probs' must hold numbers.")
        raw["log_probs"] = tuple(float(value) for value in raw["log_probs"])
    return Prediction(**raw)


def shown_as(predictions: Sequence[Prediction], shown: str) -> list[Prediction]:
    """Those of one view."""
    return [p for p in predictions if p.shown == shown]


def by_client(predictions: Sequence[Prediction]) -> dict[int | None, list[Prediction]]:
    """Apart by whose adapter answered; one entry, None, for a global adapter."""
    parts: dict[int | None, list[Prediction]] = {}
    for prediction in predictions:
        parts.setdefault(prediction.client, []).append(prediction)
    return parts


def of_client(predictions: Iterable[Prediction], client: int) -> list[Prediction]:
    """The same predictions, marked as this client's."""
    return [dataclasses.replace(prediction, client=client) for prediction in predictions]
