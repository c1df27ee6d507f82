"""The rows a judge sees, and the key under which a verdict on one is kept."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from fs_fedmllm.files.untrusted import RECORDED, parse_json, read_regular
from fs_fedmllm.tools.judge.config import JudgeError


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


def read_rows(path: Path) -> list[JudgeRow]:
    """Rows from JSON Lines with ``question``, ``reference``, ``answer`` and optionally ``id`` and ``kind``.

    Raises:
        JudgeError: the file cannot be read, or a line is no such row; the message names the line.
    """
    try:
        lines = (
            read_regular(path, RECORDED).decode("utf-8").split("\n")
        )  # splitlines() would cut at U+2028 inside a text
    except (OSError, UnicodeDecodeError) as error:
        raise JudgeError(f"The judge's rows cannot be read from {path}: {error}") from error
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            raw = parse_json(line)
        except ValueError as error:
            raise JudgeError(f"{path}:{number} is no JSON: {error}") from error
        for name in ("question", "reference", "answer"):
            if not isinstance(raw, dict) or not isinstance(raw.get(name), str):
                raise JudgeError(f"{path}:{number} must be a mapping whose {name!r} is a text.")
        rows.append(
            JudgeRow(
                id=str(raw.get("id", number)),
                question=raw["question"],
                reference=raw["reference"],
                answer=raw["answer"],
                kind=str(raw.get("kind", "")),
            )
        )
    return rows
