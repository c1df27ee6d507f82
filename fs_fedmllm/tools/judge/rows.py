"""The rows a judge sees, and the key under which a verdict on one is kept."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass


@dataclass(frozen=True)
class JudgeRow:
    """One answer to grade.

    Attributes:
        id: name of the row in the report; it is not part of the verdict's key.
        question: as the model was asked it.
        reference: the right answer.
        answer: the answer to grade.
        kind: slice, usually ``open`` or ``closed``.
    """

    id: str
    question: str
    reference: str
    answer: str
    kind: str = ""


def verdict_key(model: str, version: str, row: JudgeRow) -> str:
    """SHA-256 over model, prompt version, question, reference and answer."""
    content = json.dumps([model, version, row.question, row.reference, row.answer], ensure_ascii=True)
    return hashlib.sha256(content.encode()).hexdigest()
