"""Which rows a client trains on, in which order: drawn once per update, from a generator of its own."""

from __future__ import annotations

import numpy as np

#: Streams of the run's seed; each consumer derives its own generator, so that none depends on another's draws.
STREAM_SAMPLING, STREAM_ORDER, STREAM_DROPOUT = 101, 102, 103
STREAM_STAND_INS, STREAM_MODALITIES = 104, 105


def update_generator(seed: int, stream: int, round_index: int, client: int) -> np.random.Generator:
    """The generator of one purpose, round and client; the same on every engine and after a resume."""
    return np.random.default_rng([seed, stream, round_index, client])


def plan_batches(
    rows: int, *, amount: int, unit: str, batch_size: int, rng: np.random.Generator, drop_tail: bool = False
) -> list[list[int]]:
    """Row indices of each optimizer step.

    Args:
        rows: rows of the client, at least 1.
        amount: number of steps (``unit`` batch) or of passes over the rows (``unit`` epoch).
        unit: ``batch`` or ``epoch``.
        batch_size: rows behind one step; the last step of a pass may have fewer.
        rng: the update's generator; each pass is a fresh permutation.
        drop_tail: drop the incomplete last step of a pass, as the authors' code does, unless it is the only one.

    Returns:
        One list of row indices per optimizer step.
    """
    if rows < 1:
        raise ValueError("a client without rows cannot train")
    batches: list[list[int]] = []
    passes = 0
    while True:
        order = rng.permutation(rows).tolist()
        chunks = [order[i : i + batch_size] for i in range(0, rows, batch_size)]
        if drop_tail and len(chunks) > 1 and len(chunks[-1]) < batch_size:
            chunks.pop()
        batches += chunks
        passes += 1
        if unit == "epoch" and passes == amount:
            return batches
        if unit == "batch" and len(batches) >= amount:
            return batches[:amount]
