"""Rows grouped into units that one client gets whole: a tweet with its images, or just a row."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from fs_fedmllm.scenarios.draws import IntArray


@dataclass(frozen=True)
class Units:
    """Unit u holds ``rows[starts[u] : starts[u] + sizes[u]]``; units are in order of first appearance."""

    rows: IntArray
    starts: IntArray
    sizes: IntArray

    def __len__(self) -> int:
        return len(self.sizes)

    def expand(self, units: IntArray) -> IntArray:
        """The rows of these units, unit after unit."""
        sizes = self.sizes[units]
        offsets = np.repeat(self.starts[units] - (np.cumsum(sizes) - sizes), sizes)
        return self.rows[offsets + np.arange(len(offsets))]


def codes(values: Sequence[Hashable]) -> IntArray:
    """Values numbered in order of first appearance."""
    number = {value: index for index, value in enumerate(dict.fromkeys(values))}
    return np.fromiter((number[value] for value in values), dtype=np.int64, count=len(values))


def single(rows: IntArray) -> Units:
    """Every row a unit of its own."""
    return Units(rows, np.arange(len(rows)), np.ones(len(rows), dtype=np.int64))


def together(rows: IntArray, values: Sequence[Hashable]) -> Units:
    """A unit for every distinct value; ``values`` belong to ``rows``."""
    unit = codes(values)
    sizes = np.bincount(unit).astype(np.int64)
    return Units(rows[np.argsort(unit, kind="stable")], np.cumsum(sizes) - sizes, sizes)


def majority(units: Units, labels: IntArray) -> IntArray:
    """The label that most rows of each unit have, the lowest code on a tie; ``labels`` by row index."""
    count = int(labels.max()) + 1
    owner = np.repeat(np.arange(len(units)), units.sizes)
    pairs, votes = np.unique(owner * count + labels[units.rows], return_counts=True)
    unit, label = pairs // count, pairs % count
    order = np.lexsort((label, -votes, unit))
    _, first = np.unique(unit[order], return_index=True)
    return label[order][first]


def deal(sizes: IntArray, targets: IntArray) -> IntArray:
    """The client of each unit when units are laid end to end and cut at the targets' cumulative sums.

    A unit that a cut would tear goes to the client that its middle falls to, so units of one row
    meet the targets exactly and no client is off by more than a unit.
    """
    middle = np.cumsum(sizes) - sizes / 2
    return np.searchsorted(np.cumsum(targets), middle, side="right").astype(np.int64)


def split(items: IntArray, owner: IntArray, clients: int) -> list[IntArray]:
    """Items per client, in the order given."""
    order = np.argsort(owner, kind="stable")
    return np.split(items[order], np.cumsum(np.bincount(owner, minlength=clients))[:-1])
