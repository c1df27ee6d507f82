"""Clients as the data has them: one for each value of a column, such as the hospital that a row comes from.

Their order is that of their names, so it does not depend on the order of the rows. Two names that a reader would take
for one another (a blank more, another case, a Cyrillic letter that looks like a Latin one) are most likely one client
that was written in two ways, and are refused: a silent split of one hospital into two would be worse.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fs_fedmllm.data.sample import Sample
from fs_fedmllm.errors import ScenarioError
from fs_fedmllm.scenarios.draws import IntArray
from fs_fedmllm.scenarios.rows import Rows

#: Characters of a client's name.
LONGEST = 200
#: Facts of a row that are no keys of it.
_FACTS = ("label", "kind", "modality")
#: Cyrillic and Greek letters that look like Latin ones, in either case; to different ones, so that names within one
#: script never become alike.
_ALIKE = str.maketrans(
    "авекмнорстухіјѕԁԛԝαβεζηικμνορτυχ",
    "abekmhopctyxijsdqwabezhikmnoptyx",
)


@dataclass(frozen=True)
class NaturalClients:
    """Who has which rows.

    Attributes:
        names: of the clients, in their order; client k is ``names[k - 1]``.
        owner: the index of each row's client.
    """

    names: tuple[str, ...]
    owner: IntArray

    @classmethod
    def of(cls, rows: Rows, column: str) -> NaturalClients:
        """Read a column.

        Raises:
            ScenarioError: a row has no value, a name is too long, or two names look alike.
        """
        values = _values(rows, column)
        first: dict[str, Sample] = {}
        for value, sample in zip(values, rows.samples, strict=True):
            first.setdefault(value, sample)
        _check(first, column)
        names = tuple(sorted(first, key=_order(list(first))))
        place = {name: index for index, name in enumerate(names)}
        owner = np.fromiter((place[value] for value in values), dtype=np.int64, count=len(values))
        return cls(names, owner)

    def parts(self, rows: Rows) -> list[IntArray]:
        """Row indices of each client, in the order of the rows' ids, which is the same however a file is sorted."""
        ids = [sample.id for sample in rows.samples]
        order = np.array(sorted(range(len(ids)), key=ids.__getitem__), dtype=np.int64)
        dealt = order[np.argsort(self.owner[order], kind="stable")]
        counts = np.bincount(self.owner, minlength=len(self.names))
        return np.split(dealt, np.cumsum(counts)[:-1])


def _values(rows: Rows, column: str) -> list[str]:
    keyed = any(column in sample.keys for sample in rows.samples)
    if not keyed and column in _FACTS:
        return [str(value) for value in rows.values(column, "client")]
    if not keyed:
        known = ", ".join(dict.fromkeys(key for sample in rows.samples for key in sample.keys)) or "no keys at all"
        raise ScenarioError(
            f"data.splitter_args: client is {column!r}, and no training row has it (rows have {known}, and "
            f"{', '.join(_FACTS)}); name the column that says which client a row belongs to"
        )
    values = [sample.keys.get(column, "") for sample in rows.samples]
    lacking = next((s for s, value in zip(rows.samples, values, strict=True) if not _shape(value)), None)
    if lacking is not None:
        raise ScenarioError(
            f"{lacking.source or f'row {lacking.id}'}: the row has no {column!r}, of which data.splitter "
            "fedmllm_given makes a client for each value; fill it in, or remove the row"
        )
    return values


def _check(first: dict[str, Sample], column: str) -> None:
    seen: dict[str, str] = {}
    for name, sample in first.items():
        where = sample.source or f"row {sample.id}"
        if len(name) > LONGEST:
            raise ScenarioError(
                f"{where}: {column!r} has {len(name):,} characters, beginning with {name[:40]!r}, and a client's name "
                f"at most {LONGEST}; is it the right column (data.splitter_args: client)?"
            )
        other = seen.setdefault(_shape(name), name)
        if other != name:
            there = first[other].source or f"row {first[other].id}"
            raise ScenarioError(
                f"{where}: {column!r} is {name!a}, and {there} has {other!a}, which reads the same; write "
                "one client's name in one way, or give two clients names that differ by more than case, blanks and "
                "letters that look alike"
            )


def _shape(name: str) -> str:
    """What a reader sees of a name; empty where there is nothing to see."""
    seen = "".join(c for c in unicodedata.normalize("NFKC", name) if unicodedata.category(c) != "Cf")
    return " ".join(seen.casefold().split()).translate(_ALIKE)


def _order(names: Sequence[str]):  # type: ignore[no-untyped-def]
    """Whole numbers by their size, and anything else by its characters."""
    if all(name.isascii() and name.isdigit() for name in names):
        return lambda name: (int(name), name)
    return lambda name: name
