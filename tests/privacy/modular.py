"""The sum that secure aggregation must come to, without any mask."""

from collections.abc import Sequence

import numpy as np


def modular_sum(vectors: Sequence[np.ndarray]) -> np.ndarray:
    """The sum modulo 2^32."""
    total = np.zeros_like(vectors[0])
    for vector in vectors:
        np.add(total, vector, out=total)
    return total
