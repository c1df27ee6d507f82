"""Does a model use a modality? Shuffle it across rows and see what is left.

A model that composes both falls to the ceiling of the modality that still fits.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from fs_fedmllm.data.sample import Sample


def shuffled(samples: Sequence[Sample], modality: str, rng: np.random.Generator) -> list[Sample]:
    """The rows with one modality permuted across them; labels stay.

    Args:
        samples: rows that all show the modality.
        modality: ``image`` or ``text``.
        rng: draws the permutation.
    """
    order = rng.permutation(len(samples))
    return [
        dataclasses.replace(row, **{modality: getattr(samples[int(other)], modality)})
        for row, other in zip(samples, order, strict=True)
    ]
