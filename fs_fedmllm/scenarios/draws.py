"""Random generators of the scenarios. Nothing here touches a global generator.

Two families. *Seeded* draws (profiles ``fixed`` and ``paper``) take one NumPy generator per purpose
and client, so that no draw depends on the order of clients or on what was drawn before. *Upstream*
draws replay the authors' code, which seeds the global generators of Python and NumPy once per
script: a local ``random.Random`` or ``RandomState`` with the same seed gives the same numbers.
"""

from __future__ import annotations

import random

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

#: Seeds that the authors' scripts hard-code: sets whose rows have both modalities, and medical sets.
UPSTREAM_SEED = 42
UPSTREAM_UNPAIRED_SEED = 41
#: The authors' medical hybrid script draws which client holds what from an unseeded generator, so
#: what they drew is lost. This seed is our recorded draw in its place.
RECORDED_PRESENCE_SEED = 41

#: Purposes of the seeded generators. Numbers are part of the algorithm version: never reuse one.
PROPORTIONS, ROWS, ORDER, MISSING, CROSS, HYBRID, HYBRID_ROWS, UNPAIRED = range(1, 9)


def generator(seed: int, purpose: int, client: int = 0) -> np.random.Generator:
    """The generator of one purpose and one client (counted from 0)."""
    return np.random.default_rng([seed, purpose, client])


def python_stream(seed: int) -> random.Random:
    """The numbers that ``random.seed(seed)`` followed by ``random.*`` would give."""
    return random.Random(seed)


def numpy_stream(seed: int) -> np.random.RandomState:
    """The numbers that ``np.random.seed(seed)`` followed by ``np.random.*`` would give."""
    return np.random.RandomState(seed)


def shuffled(rows: IntArray, stream: random.Random) -> IntArray:
    """``random.shuffle`` of a list of these rows."""
    items = rows.tolist()
    stream.shuffle(items)
    return np.array(items, dtype=np.int64)
