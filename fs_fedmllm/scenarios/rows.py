"""The rows of a scenario as arrays, and what a scenario makes of them."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from fs_fedmllm.data.sample import Sample
from fs_fedmllm.errors import ScenarioError
from fs_fedmllm.scenarios.draws import FloatArray, IntArray

#: What a row shows, as two bits.
NEITHER, IMAGE, TEXT, BOTH = 0, 1, 2, 3
ShowArray = npt.NDArray[np.uint8]


def bits(held: npt.NDArray[np.bool_]) -> ShowArray:
    """(rows,) codes of (rows, 2) truths: whether an image is there, and whether a text is."""
    return (held[:, 0] * IMAGE + held[:, 1] * TEXT).astype(np.uint8)


def tossed(draws: FloatArray) -> ShowArray:
    """An image or a text by a fair coin each, of numbers in [0, 1)."""
    return np.where(draws < 0.5, IMAGE, TEXT).astype(np.uint8)


@dataclass(frozen=True)
class Rows:
    """Training rows in file order."""

    samples: Sequence[Sample]

    @cached_property
    def native(self) -> ShowArray:
        """What each row shows before any scenario; a question without an image (a flashcard) is text."""
        bits = (
            (IMAGE if s.image is not None else 0)
            | (TEXT if s.text is not None or (s.image is None and s.question is not None) else 0)
            for s in self.samples
        )
        return np.fromiter(bits, dtype=np.uint8, count=len(self.samples))

    @property
    def unpaired(self) -> bool:
        """No row has both modalities, as in the medical sets: images there, texts elsewhere."""
        return not bool((self.native == BOTH).any())

    def values(self, key: str, setting: str) -> list[Hashable]:
        """One value per row to group by; ``setting`` is named in the error if rows lack it."""
        values: list[Hashable]
        if key == "label":
            values = [s.label for s in self.samples]
            lacking = [] if any(value is not None for value in values) else [self.samples[0]]
        elif key == "modality":
            return [s.presence for s in self.samples]
        else:
            values = [s.keys.get(key) for s in self.samples]
            lacking = [s for s, value in zip(self.samples, values, strict=True) if value is None]
            if len(lacking) == len(values) and key == "kind":
                return [s.kind for s in self.samples]
        if lacking:
            row = lacking[0]
            keys = ", ".join(["label", "kind", "modality", *sorted(row.keys)])
            raise ScenarioError(
                f"scenario setting {setting}: {key!r} is absent from row {row.id} ({row.source or 'no source'}); "
                f"set it to one of {keys}"
            )
        return values


class BlindClientError(ScenarioError):
    """A client would keep none of its rows; ``client`` is its id."""

    def __init__(self, client: int, rows: int):
        super().__init__(
            f"client {client} would keep none of its {rows} rows, because they lack the modality that the scenario "
            "leaves it; use fewer clients, another seed, or a data set whose rows have both modalities"
        )
        self.client = client


@dataclass(frozen=True)
class Assignment:
    """Who gets which rows, in order, and what each row still shows.

    Attributes:
        rows: per client, indices into the rows.
        shows: per client, one of the four codes for each of its rows.
        dropped: per client, how many rows it lost because they would have shown nothing.
        seed: the seed that the split was drawn with.
        names: of the clients, where the data calls them by one; else empty.
    """

    rows: tuple[IntArray, ...]
    shows: tuple[ShowArray, ...]
    dropped: tuple[int, ...]
    seed: int
    names: tuple[str, ...] = ()


def whole(rows: Rows, parts: Sequence[IntArray], seed: int) -> Assignment:
    """These rows for these clients, nothing masked."""
    return Assignment(tuple(parts), tuple(rows.native[part] for part in parts), (0,) * len(parts), seed)


def without_blind(assignment: Assignment) -> Assignment:
    """Drop and count rows that would show nothing because they lack what their client may see."""
    keep = [shows != NEITHER for shows in assignment.shows]
    for client, (kept, rows) in enumerate(zip(keep, assignment.rows, strict=True), start=1):
        if not kept.any():
            raise BlindClientError(client, len(rows))
    return Assignment(
        tuple(rows[kept] for rows, kept in zip(assignment.rows, keep, strict=True)),
        tuple(shows[kept] for shows, kept in zip(assignment.shows, keep, strict=True)),
        tuple(int((~kept).sum()) for kept in keep),
        assignment.seed,
    )
