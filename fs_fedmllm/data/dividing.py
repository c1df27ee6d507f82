"""One set of rows divided into training, validation and test: by groups, alike in labels, whatever the rows' order.

Rows that share a value of a column that is kept together (a patient), the picture (by its bytes), or, without a
picture, text and question, are one unit and stay in one split. Units are taken from the largest to the smallest, those
of one size in the order of a sha256 of the seed and of what they show, so the order of the rows, their numbers and
their places do not count. Each goes where it brings the rows' number, their labels (or kinds of answer) and what they
show nearest to the shares, as Webster apportions seats: the smallest (have + half of what comes) / wanted.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fs_fedmllm.data.content import image_sample_sha256
from fs_fedmllm.data.joined import joined
from fs_fedmllm.data.overlap import image_contents
from fs_fedmllm.data.sample import Sample
from fs_fedmllm.errors import ConfigError
from fs_fedmllm.keys import is_number

PARTS = ("train", "val", "test")
_KEYS = ("val", "test", "together", "seed")


@dataclass(frozen=True)
class Division:
    """The option ``split``.

    Attributes:
        val: share of the rows that is for validation, 0 to 1.
        test: share that is for the test.
        together: columns whose rows of one value stay in one split.
        seed: of the order; the run's own seed changes no split.
    """

    val: float = 0.0
    test: float = 0.0
    together: tuple[str, ...] = ()
    seed: int = 0

    def __bool__(self) -> bool:
        return bool(self.val or self.test)

    @property
    def shares(self) -> dict[str, float]:
        """Share of each part that gets rows."""
        shares = {"train": 1 - self.val - self.test, "val": self.val, "test": self.test}
        return {part: share for part, share in shares.items() if share > 0}


def check_division(given: Any) -> Division:
    """The option ``split``, checked.

    Raises:
        ConfigError: it is no mapping of shares, or the shares leave nothing to train on.
    """
    said = "such as {val: 0.1, test: 0.2, together: patient}"
    if not isinstance(given, Mapping):
        raise ConfigError(f"own: split must be a mapping, {said}, not {given!r}.")
    if not given:
        return Division()
    unknown = next((key for key in given if key not in _KEYS), None)
    if unknown is not None:
        raise ConfigError(f"own: split has no key {unknown!r}; keys are {', '.join(_KEYS)}. The rest is trained on.")
    shares = {}
    for part in ("val", "test"):
        share = given.get(part, 0.0)
        if not is_number(share) or not 0 <= share < 1:
            raise ConfigError(f"own: split.{part} must be a share of the rows, 0 or more and below 1, not {share!r}.")
        shares[part] = float(share)
    if not 0 < sum(shares.values()) < 1:
        raise ConfigError(
            "own: split must name a share for val, test or both, and leave rows to train on, " + said + "."
        )
    together = given.get("together") or []
    names = [together] if isinstance(together, str) else together
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) and name for name in names):
        raise ConfigError(f"own: split.together must be the name of a column, or a list of them, not {together!r}.")
    seed = given.get("seed", 0)
    if type(seed) is not int:
        raise ConfigError(f"own: split.seed must be a whole number, not {seed!r}.")
    return Division(**shares, together=tuple(dict.fromkeys(names)), seed=seed)


def divide(rows: Sequence[Sample], division: Division) -> dict[str, list[Sample]]:
    """The rows of each part, in their order.

    Args:
        rows: all rows; of each, ``keys`` holds the columns that are kept together.
        division: the shares.

    Raises:
        ConfigError: the units are too few for a row in every part.
    """
    units = _units(rows, division)
    strata = [_strata(row) for row in rows]
    totals = Counter(name for names in strata for name in names)
    shares = division.shares
    have = {part: Counter[str]() for part in shares}
    placed: dict[int, str] = {}
    for members in units:
        comes = Counter(name for i in members for name in strata[i])
        part = min(shares, key=lambda part: _fill(comes, have[part], totals, shares[part]))
        have[part].update(comes)
        placed |= dict.fromkeys(members, part)
    made: dict[str, list[Sample]] = {part: [] for part in PARTS}
    for i, row in enumerate(rows):
        made[placed[i]].append(row)
    empty = next((part for part in shares if not made[part]), None)
    if empty is not None:
        alike = " or ".join(["the same picture", *(f"one {name}" for name in division.together)])
        of = (
            f" in {len(units):,} {'group' if len(units) == 1 else 'groups'} that can be apart (rows of {alike} stay "
            "together, and so do those that these join)"
            if len(units) < len(rows)
            else ""
        )
        share = "what is left" if empty == "train" else f"a share of {shares[empty]:g}"
        raise ConfigError(
            f"own: split: {len(rows):,} rows{of} give no {empty} row with {share}. Raise the share, give more rows, "
            "or write the split in a column of its own."
        )
    return made


def _fill(comes: Mapping[str, int], have: Mapping[str, int], totals: Mapping[str, int], share: float) -> float:
    return sum(count * (have[name] + count / 2) / (share * totals[name]) for name, count in comes.items())


def _strata(row: Sample) -> tuple[str, ...]:
    """What should be spread over the parts alike: rows, labels or kinds of answer, and what rows show."""
    return ("rows", f"label {row.label}" if row.label is not None else f"kind {row.kind}", f"shows {row.presence}")


def _units(rows: Sequence[Sample], division: Division) -> list[list[int]]:
    """Indices of the rows of each unit, in the order that units are placed in."""
    contents = image_contents(rows)
    keys = []
    for row in rows:
        picture = contents[row.image] if row.image is not None else None
        shown = ("image", picture) if picture is not None else ("text", row.text or "", row.question or "")
        keys.append([shown, *(("together", name, row.keys[name]) for name in division.together)])
    members: dict[int, list[int]] = {}
    for i, first in enumerate(joined(keys)):
        members.setdefault(first, []).append(i)
    digests = _digests(rows, division)

    def place(unit: list[int]) -> tuple[int, str, str]:
        """From the largest to the smallest; the pictures' own digests tell apart what their samples do not."""
        images = [contents[image] for i in unit if (image := rows[i].image) is not None]
        return -len(unit), min(digests[i] for i in unit), min(images, default="")

    return sorted(members.values(), key=place)


def _digests(rows: Sequence[Sample], division: Division) -> list[str]:
    """For each row a word that its content and the seed decide."""
    images: dict[str, str] = {}
    found = []
    for row in rows:
        if row.image is not None and row.image not in images:
            images[row.image] = image_sample_sha256(row.image)
        shown = [images[row.image] if row.image is not None else None, row.text, row.question]
        told = repr([division.seed, *(row.keys[name] for name in division.together), *shown])
        found.append(hashlib.sha256(told.encode("utf-8", "surrogatepass")).hexdigest())
    return found


def division_sentences(made: Mapping[str, Sequence[Sample]], division: Division, tolerance: float = 0.05) -> list[str]:
    """Where groups are too large for the shares that were asked for.

    Args:
        made: the rows of each part.
        division: the shares.
        tolerance: by how much a part's share may differ.
    """
    total = sum(len(rows) for rows in made.values())
    missed = [
        f"{len(made[part]):,} {part} rows ({len(made[part]) / total:.0%}, asked for {share:.0%})"
        for part, share in division.shares.items()
        if abs(len(made[part]) - share * total) > max(1, tolerance * total)
    ]
    return [f"split: rows that stay together leave {', '.join(missed)}."] if missed else []
