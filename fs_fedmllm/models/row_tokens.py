"""How many tokens rows have, image and text apart; counted with the real processor, without the model's weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fs_fedmllm.data.sample import Sample
from fs_fedmllm.models.encoding import Encoder

#: Rows that are looked at; more are drawn down to so many, evenly spaced.
MOST = 256
PARTS = ("image", "text", "answer", "row")


@dataclass(frozen=True)
class RowTokens:
    """Tokens of one row.

    Attributes:
        image: what its image adds; 0 without one.
        text: the rest of the prompt.
        answer: the answer, with the end of the turn.
    """

    image: int
    text: int
    answer: int

    @property
    def row(self) -> int:
        """All of them."""
        return self.image + self.text + self.answer


def count_tokens(encoder: Encoder, rows: Sequence[Sample], most: int = MOST) -> dict[str, Any]:
    """Median, 95 % and largest number of tokens of rows.

    Args:
        encoder: of the run; the model may be one without weights.
        rows: any.
        most: rows that are looked at.

    Returns:
        ``rows`` (how many were looked at), ``of``, ``limit`` (``fedmllm.train.max_length``; 0 for none), ``over``
        (rows whose image alone passes it), and for each of :data:`PARTS` ``median``, ``p95`` and ``largest``; for
        ``image`` of the rows that have one.

    Raises:
        DataError: an image cannot be read.
    """
    step = max(1, -(-len(rows) // most))
    chosen = rows[::step]
    counts = [RowTokens(*encoder.tokens_of(row)) for row in chosen]
    limit = encoder.lengths.most
    found: dict[str, Any] = {"rows": len(chosen), "of": len(rows), "limit": limit}
    found["over"] = sum(1 for count in counts if limit and count.image > limit)
    for part in PARTS:
        values = sorted(getattr(count, part) for count in counts if part != "image" or count.image)
        if values:
            at = {"median": (len(values) - 1) // 2, "p95": max(0, -(-95 * len(values) // 100) - 1), "largest": -1}
            found[part] = {name: values[i] for name, i in at.items()}
    return found


def said_tokens(found: dict[str, Any]) -> str:
    """:func:`count_tokens` in one line."""
    parts = [
        f"{part} {found[part]['median']:,} / {found[part]['p95']:,} / {found[part]['largest']:,}"
        for part in PARTS
        if part in found
    ]
    of = f"{found['rows']:,} rows" if found["rows"] == found["of"] else f"{found['rows']:,} of {found['of']:,} rows"
    return f"median / 95 % / largest of {of}: {', '.join(parts)}"


def too_dear(found: dict[str, Any]) -> str:
    """What to say where images alone pass the limit; empty where none does."""
    if not found["over"]:
        return ""
    return (
        f"{found['over']} of {found['rows']} rows have an image that alone is longer than the {found['limit']} tokens "
        "of fedmllm.train.max_length, and a run would refuse them: raise it, or set model.fedmllm.image_tokens."
    )
