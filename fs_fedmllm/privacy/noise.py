"""Gaussian noise from the operating system's entropy, never from the configuration's seed.

Who can guess the generator can take the noise off again, so there is no generator: every uniform number is fresh
from ``os.urandom``, which is cryptographically secure, and nothing about it is stored or can be drawn twice.

A double from one Box-Muller pair has few low bits, and with them tells what it was added to (Mironov 2012). Each
coordinate is half the sum of four independent ones, against which that attack is out of reach (Holohan and Braghin,
"Secure Random Sampling in Differential Privacy", ESORICS 2021).
"""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
import torch

from fs_fedmllm.algorithms.state import State

#: Coordinates drawn at once: 256 KiB of entropy per Gaussian.
_CHUNK = 1 << 15

#: A source of random bytes: how many -> so many bytes.
Entropy = Callable[[int], bytes]


def _uniform(count: int, entropy: Entropy) -> np.ndarray:
    """Doubles in (0, 1], from the upper 53 bits of 8 bytes each."""
    words = np.frombuffer(entropy(8 * count), dtype="<u8")
    return ((words >> np.uint64(11)).astype(np.float64) + 1.0) * 2.0**-53


def standard_normal(count: int, entropy: Entropy = os.urandom) -> np.ndarray:
    """Independent standard Gaussians.

    Args:
        count: how many.
        entropy: where random bytes come from; tests alone pass another.

    Returns:
        float64, shape (count,).
    """
    out = np.empty(count)
    for start in range(0, count, _CHUNK):
        size = min(_CHUNK, count - start)
        total = np.zeros(size)
        for _ in range(2):  # two Box-Muller pairs, both halves of each: four independent Gaussians
            radius = np.sqrt(-2.0 * np.log(_uniform(size, entropy)))
            angle = 2.0 * np.pi * _uniform(size, entropy)
            total += radius * np.cos(angle) + radius * np.sin(angle)
        out[start : start + size] = total / 2.0
    return out


def add_noise(mean: State, std: float, entropy: Entropy = os.urandom) -> State:
    """The mean with independent Gaussian noise on every coordinate.

    Args:
        mean: name -> tensor of any shape.
        std: standard deviation, in the units of the parameters.
        entropy: where random bytes come from.

    Returns:
        name -> float32 tensor.
    """
    noisy = {}
    for name, tensor in mean.items():
        drawn = torch.from_numpy(standard_normal(tensor.numel(), entropy)).reshape(tensor.shape)
        noisy[name] = (tensor.double() + std * drawn).float()
    return noisy
