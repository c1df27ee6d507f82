"""Who holds what, in numbers: rows of clients and splits by label, modality and kind, for pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fs_fedmllm.data.sample import Sample
    from fs_fedmllm.scenarios.federated_data import FederatedData

#: What a row shows, by its presence; then the same for rows that ask a question of their own.
CASES = {"both": "image and text", "image": "image only", "text": "text only", "neither": "neither"}
ASKING = {"both": "image, text and question", "image": "image and question", "text": "text and question",
          "neither": "question only"}  # fmt: skip


def _label(row: Sample, names: Sequence[str]) -> str:
    return names[row.label] if row.label is not None else "none"


def _shows(row: Sample) -> str:
    return (ASKING if row.question else CASES)[row.presence]


def labels_of(clients: Mapping[int, Sequence[Sample]], names: Sequence[str]) -> dict[int, Counter[str]]:
    """Client -> rows by label."""
    return {client: Counter(_label(row, names) for row in rows) for client, rows in sorted(clients.items())}


def modalities_of(clients: Mapping[int, Sequence[Sample]]) -> dict[int, Counter[str]]:
    """Client -> rows by what they show."""
    return {client: Counter(map(_shows, rows)) for client, rows in sorted(clients.items())}


def labels_by_modality(
    clients: Mapping[int, Sequence[Sample]], names: Sequence[str]
) -> dict[int, Counter[tuple[str, str]]]:
    """Client -> rows by (label, what they show)."""
    return {
        client: Counter((_label(row, names), _shows(row)) for row in rows) for client, rows in sorted(clients.items())
    }


def categories(data: FederatedData) -> Iterator[tuple[str, dict[str, Counter[str]]]]:
    """(what is counted, split -> counts) for the keys and the kind of the rows of a question-answering set.

    Where some rows have an image, only those count: flashcards beside them have question types of their own.
    """
    splits: dict[str, Sequence[Sample]] = {name: getattr(data.dataset, name) for name in ("train", "test")}
    if any(row.image is not None for rows in splits.values() for row in rows):
        splits = {name: [row for row in rows if row.image is not None] for name, rows in splits.items()}
    for key, title in (("organ", "image category"), ("question_type", "question type"), ("", "answer kind")):
        counts = {
            split: Counter(_kinds(row, key) for row in rows if _kinds(row, key)) for split, rows in splits.items()
        }
        counts = {split: count for split, count in counts.items() if count}
        if counts:
            yield title, counts


def _kinds(row: Sample, key: str) -> str:
    value = row.keys.get(key, "") if key else row.kind
    return value.strip().lower()
