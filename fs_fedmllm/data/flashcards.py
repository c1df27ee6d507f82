"""MedAlpaca flashcards (Han et al., 2023): medical questions and answers as text, for training.

Layout: one JSON list (or JSON Lines) of ``instruction``, ``input`` (the question), ``output`` (the answer).
The instruction is the same everywhere and is dropped. MedQuAD in the same schema is read too; its
``focus`` (the disease) becomes ``keys["disease"]``.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

from fs_fedmllm.data.files import find_or_fail, fingerprint
from fs_fedmllm.data.findings import Findings, RowError, convert
from fs_fedmllm.data.json_rows import json_rows
from fs_fedmllm.data.row_values import Row, text_of
from fs_fedmllm.data.sample import Dataset, Sample
from fs_fedmllm.errors import ConfigError

OFFICIAL = "medical_meadow_wikidoc_medical_flashcards.json"
PUBLISHED = 33955
#: An answer that is repeated more often than this is worth a warning.
MANY = 50
_GET = (
    "Download medalpaca/medical_meadow_medical_flashcards from the hub, or name your file with the option of this "
    "data set that gives the flashcards' file."
)


def load(
    root: Path,
    *,
    file: str = "",
    max_repeats: int = 0,
    val_share: float = 0.0,
    test_share: float = 0.0,
    findings: Findings | None = None,
) -> Dataset:
    """Read question-answer pairs.

    Args:
        root: the folder of the file.
        file: its name; empty takes the official one, or the only JSON file of the folder.
        max_repeats: rows that may share one answer; the rest is dropped and counted. 0 keeps all.
        val_share: share of the diseases (of the rows, where no disease is given) set aside for validation.
        test_share: the same for testing. Which ones is fixed by a hash of the name, not by chance.
        findings: where to put what is wrong; without it the first error is raised.
    """
    for key, share in (("val_share", val_share), ("test_share", test_share), ("both shares", val_share + test_share)):
        if not 0 <= share < 1:
            raise ConfigError(f"flashcards: {key} must be at least 0 and below 1, not {share!r}.")
    if max_repeats < 0:
        raise ConfigError(f"flashcards: max_repeats must be 0 (keep all) or more, not {max_repeats}.")
    found = findings or Findings()
    path = find_file(root, file)
    samples = _capped(read_pairs(path, found), max_repeats, str(path), found)
    parts: dict[str, list[Sample]] = {"train": [], "val": [], "test": []}
    for sample in samples:
        parts[_part(sample, val_share, test_share)].append(sample)
    return Dataset(
        name="flashcards", template="medical", train=parts["train"], val=parts["val"], test=parts["test"],
        warnings=found.warnings, fingerprint=fingerprint([path]),
    )  # fmt: skip


def find_file(root: Path, name: str) -> Path:
    """The file of a folder: by its name, else the only JSON file there, else the official one."""
    if name:
        return find_or_fail(root, [name], "Correct the name of the flashcards' file.")
    others = sorted(path for path in root.iterdir() if path.suffix in (".json", ".jsonl"))
    if len(others) == 1:
        return others[0]
    return find_or_fail(root, [OFFICIAL], _GET)


def read_pairs(path: Path, found: Findings) -> list[Sample]:
    """The questions and answers of a file, one row each, as many as it has."""
    empty = 0

    def make(row: Row, where: str) -> Sample | None:
        nonlocal empty
        question, answer = text_of(row, "input", where), text_of(row, "output", where)
        if not question.strip() or not answer.strip():
            empty += 1
            return None
        keys = {"data_type": "text", "set": "flashcards"}
        keys |= {
            name: str(row[key]) for key, name in (("focus", "disease"), ("qtype", "question_type")) if row.get(key)
        }
        line = where.removeprefix(f"{path}:").replace(" (row ", "-").rstrip(")")
        return Sample(line, None, None, answer.strip(), question=question, kind="open", keys=keys, source=where)

    samples = convert(json_rows(path, found), make, found)
    if empty:
        found.warn(str(path), f"{empty:,} rows with an empty input or output were dropped.")
    if path.name == OFFICIAL:
        found.expect_count(str(path), "rows", len(samples) + empty, PUBLISHED)
    if not samples:
        found.error(RowError(str(path), "there is no row with a question and an answer.", _GET))
    return samples


def _capped(samples: list[Sample], limit: int, file: str, found: Findings) -> list[Sample]:
    counts: Counter[str] = Counter()
    kept = []
    for sample in samples:
        counts[sample.answer] += 1
        if not limit or counts[sample.answer] <= limit:
            kept.append(sample)
    if len(kept) < len(samples):
        found.warn(file, f"{len(samples) - len(kept):,} rows were dropped: max_repeats is {limit} rows an answer.")
    elif counts and (most := max(counts.values())) > MANY:
        found.warn(file, f"One answer is given in {most:,} rows.", "Set max_repeats to cap that.")
    return kept


def _part(sample: Sample, val_share: float, test_share: float) -> str:
    """All rows of a disease go to the same part, on every machine."""
    name = sample.keys.get("disease") or f"{sample.question}\n{sample.answer}"
    point = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64
    return "test" if point < test_share else "val" if point < test_share + val_share else "train"
