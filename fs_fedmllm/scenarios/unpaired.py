"""Sets in which each row has one modality: an image set and a text set side by side, as in the medical task.

Clients that hold images share the image set evenly, clients that hold text the text set; a client
that holds both gets a block of each, shuffled (FedMLLM, section 5.1). A row with neither modality is
a question in words and counts as text. Under ``fixed`` blocks differ by at most one row; upstream
cuts blocks of floor(N / k) rows and gives the rest to the last client listed.
"""

from __future__ import annotations

import random

import numpy as np

from fs_fedmllm.errors import ScenarioError
from fs_fedmllm.scenarios.draws import ORDER, UNPAIRED, IntArray, generator, shuffled
from fs_fedmllm.scenarios.partition import give_everyone_one, require, units_of
from fs_fedmllm.scenarios.rows import IMAGE, Assignment, Rows, whole
from fs_fedmllm.scenarios.switches import ScenarioParams
from fs_fedmllm.scenarios.units import deal, split


def dealt_by_modality(
    rows: Rows,
    clients: int,
    image: list[int],
    text: list[int],
    params: ScenarioParams,
    seed: int,
    stream: random.Random | None,
) -> Assignment:
    """Image rows for the image clients and text rows for the text clients, in the order listed.

    Args:
        rows: the rows, none of which has both modalities.
        clients: how many clients there are.
        image: clients (from 0) that hold images.
        text: clients (from 0) that hold text.
        params: for ``keep_together``.
        seed: of the seeded draws.
        stream: the authors' one stream, or None for seeded draws.
    """
    has_image = rows.native == IMAGE
    blocks: list[list[IntArray]] = [[] for _ in range(clients)]
    for name, holders, indices in (
        ("image", image, np.flatnonzero(has_image)),
        ("text", text, np.flatnonzero(~has_image)),
    ):
        if not len(indices):
            raise ScenarioError(
                f"{len(holders)} clients hold {name} rows, but the data has none, and no row has both modalities; "
                "use a data set with both, or the scenario aligned"
            )
        if stream:
            require(len(indices), len(holders), params, f"{name} ")
            parts = _upstream_blocks(shuffled(indices, stream), len(holders))
        else:
            parts = _even_blocks(rows, indices, len(holders), params, seed, name)
        for holder, part in zip(holders, parts, strict=True):
            blocks[holder].append(part)
    return whole(rows, [_joined(block, client, seed, stream) for client, block in enumerate(blocks)], seed)


def _upstream_blocks(indices: IntArray, holders: int) -> list[IntArray]:
    size = len(indices) // holders
    return np.split(indices, [size * block for block in range(1, holders)])


def _even_blocks(
    rows: Rows, indices: IntArray, holders: int, params: ScenarioParams, seed: int, name: str
) -> list[IntArray]:
    units = units_of(rows, indices, params)
    require(len(units), holders, params, f"{name} ")
    order = generator(seed, UNPAIRED, 0 if name == "image" else 1).permutation(len(units))
    total = len(indices)
    targets = np.array([total // holders + (block < total % holders) for block in range(holders)], dtype=np.int64)
    owner = deal(units.sizes[order], targets)
    owner = give_everyone_one(order, owner, units, holders)
    return [units.expand(part) for part in split(order, owner, holders)]


def _joined(blocks: list[IntArray], client: int, seed: int, stream: random.Random | None) -> IntArray:
    """One client's rows; images and texts are shuffled into one another."""
    if len(blocks) == 1:
        return blocks[0]
    rows = np.concatenate(blocks)
    return shuffled(rows, stream) if stream else generator(seed, ORDER, client).permutation(rows)
