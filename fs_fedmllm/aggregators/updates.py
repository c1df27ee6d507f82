"""A whole round's updates at once, for the rules that cannot be a running sum.

``Updates`` is a list of (client id, weight, delta by name), where delta = client - global in float32. Every rule
sorts by client id first, so that arrival order never matters.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch

from fs_fedmllm.aggregators.mean import RunningMean
from fs_fedmllm.algorithms.state import State
from fs_fedmllm.errors import UpdateError

#: (client id, positive weight, delta by canonical name); a client may send a subset of the names.
Updates = Sequence[tuple[int, float, Mapping[str, torch.Tensor]]]


def ordered(updates: Updates) -> list[tuple[int, float, Mapping[str, torch.Tensor]]]:
    """The updates by ascending client id, checked.

    Raises:
        UpdateError: there is none, a client appears twice, or a weight is not positive and finite.
    """
    if not updates:
        raise UpdateError("No client sent a valid update in this round.")
    chosen = sorted(updates, key=lambda update: update[0])
    for (client, weight, _), (following, _, _) in zip(chosen, [*chosen[1:], (None, 0.0, {})], strict=True):
        if client == following:
            raise UpdateError(f"Client {client} sent two updates in one round.")
        if not (weight > 0 and math.isfinite(weight)):
            raise UpdateError(f"Client {client} has weight {weight}; its update cannot be weighted.")
    return chosen


def weighted_mean(updates: Updates) -> State:
    """The weighted mean, per tensor over the clients that sent it: the bytes of ``RunningMean``."""
    mean = RunningMean({})
    for _, weight, delta in ordered(updates):
        mean.add_delta(weight, {name: tensor.float().clone() for name, tensor in delta.items()})
    return mean.mean()
