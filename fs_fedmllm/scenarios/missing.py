"""Missing: every row loses each modality with probability beta, independently (FedMLLM, section 3.1).

Both can be drawn away. ``keep_one`` then keeps one of the row's modalities at random, so that no row
asks about nothing: each modality is missing at rate beta - beta^2 / 2. ``keep_empty`` keeps the row
with nothing to see (share beta^2), as the authors' code does. A row with one modality of its own
never loses it under ``keep_one``.
"""

from __future__ import annotations

import random

import numpy as np

from fs_fedmllm.errors import ScenarioError
from fs_fedmllm.scenarios.draws import MISSING, generator, python_stream
from fs_fedmllm.scenarios.partition import partition
from fs_fedmllm.scenarios.rows import IMAGE, NEITHER, TEXT, Assignment, Rows, ShowArray, bits, tossed
from fs_fedmllm.scenarios.switches import ScenarioParams


def missing(rows: Rows, clients: int, params: ScenarioParams, run_seed: int) -> Assignment:
    """The Dirichlet partition with modalities drawn away row by row."""
    if rows.unpaired and params.missing_both == "keep_one":
        raise ScenarioError(
            "scenario missing takes modalities from rows that have both, and no row does; use the scenario aligned, "
            "cross or hybrid, or set missing_both: keep_empty"
        )
    seed = params.seed_of(run_seed)
    parts = partition(rows, clients, params, seed)
    native = [rows.native[part] for part in parts]
    if params.missing_draw == "single_stream":
        drawn = _one_stream([len(part) for part in parts], params, python_stream(seed))
    else:
        drawn = [_own_stream(len(part), params.beta, seed, client) for client, part in enumerate(parts)]
    pairs = zip(native, drawn, strict=True)
    if params.missing_both == "keep_empty":
        shows = tuple((own & left).astype(np.uint8) for own, (left, _) in pairs)
    else:
        shows = tuple(keep_one(own, left, coin) for own, (left, coin) in pairs)
    return Assignment(tuple(parts), shows, (0,) * clients, seed)


def keep_one(native: ShowArray, left: ShowArray, coin: ShowArray) -> ShowArray:
    """What rows show, where a row that would show nothing keeps the coin's modality, or the only one it has."""
    shows = native & left
    kept = native & coin
    kept = np.where(kept == NEITHER, native, kept)
    return np.where(shows == NEITHER, kept, shows).astype(np.uint8)


def _own_stream(count: int, beta: float, seed: int, client: int) -> tuple[ShowArray, ShowArray]:
    """What the draw leaves of each row, and the modality that a coin would keep."""
    stream = generator(seed, MISSING, client)
    return bits(stream.random((count, 2)) >= beta), tossed(stream.random(count))


def _one_stream(sizes: list[int], params: ScenarioParams, stream: random.Random) -> list[tuple[ShowArray, ShowArray]]:
    """The authors' draw: clients in file order, rows in order, text before image, a coin only where needed."""
    present = 1 - params.beta
    coins = params.missing_both == "keep_one"
    drawn: dict[int, tuple[ShowArray, ShowArray]] = {}
    for client in _file_order(params.file_order, len(sizes)):
        left = np.empty(sizes[client], dtype=np.uint8)
        coin = np.full(sizes[client], IMAGE, dtype=np.uint8)
        for row in range(sizes[client]):
            text = stream.random() < present
            image = stream.random() < present
            left[row] = IMAGE * image | TEXT * text
            if coins and not (image or text):
                coin[row] = IMAGE if stream.random() < 0.5 else TEXT
        drawn[client] = (left, coin)
    return [drawn[client] for client in range(len(sizes))]


def _file_order(order: tuple[int, ...], clients: int) -> list[int]:
    if order and sorted(order) != list(range(1, clients + 1)):
        raise ScenarioError(
            f"scenario setting file_order: {list(order)} must name each client from 1 to {clients} once, "
            "or be empty for ascending order"
        )
    return [client - 1 for client in order] or list(range(clients))
