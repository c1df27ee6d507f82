"""The weighted mean of the clients' deltas, as a float32 running sum, normalised per tensor.

Adding clients in sorted order makes every engine produce the same bytes; normalising per name means that a
tensor which only some clients train is averaged over those clients, and is never lost or shrunk.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType

import torch

from fs_fedmllm.algorithms.state import State
from fs_fedmllm.errors import UpdateError

#: Largest magnitude of an acceptable value: its square, times any number of rows, is still far from overflowing
#: float32, so that no client can turn a sum or a second moment into infinity.
LARGEST = 1.0e15


def check_update(client: int, params: State, update: Mapping[str, torch.Tensor]) -> None:
    """Refuse an update that would harm the global adapter.

    Args:
        client: id for the message.
        params: the global parameters that the update must fit.
        update: the client's parameters.

    Raises:
        UpdateError: an unknown name, a wrong shape, or a value that is not finite or absurdly large.
    """
    if not update:
        raise UpdateError(f"Client {client} sent no tensors.")
    for name, tensor in update.items():
        if name not in params:
            raise UpdateError(f"Client {client} sent an unknown tensor {name!r}.")
        if not isinstance(tensor, torch.Tensor) or not tensor.is_floating_point():
            raise UpdateError(f"Client {client} sent {name!r} as something other than a floating-point tensor.")
        if tensor.shape != params[name].shape:
            raise UpdateError(
                f"Client {client} sent {name!r} with shape {tuple(tensor.shape)} instead of "
                f"{tuple(params[name].shape)}."
            )
    sane = torch.stack([(tensor.detach().float().abs() <= LARGEST).all() for tensor in update.values()])
    if not bool(sane.all()):
        bad = list(update)[int((~sane).nonzero()[0])]
        raise UpdateError(
            f"Client {client} sent values in {bad!r} that are not finite (NaN or infinite) or beyond {LARGEST:g}."
        )


def check_client(client: int, weight: float, last: int) -> None:
    """What every rule of a round asks of a client before it adds its update.

    Raises:
        UpdateError: the weight is not positive and finite.
        ValueError: the client does not come after the last one (a mistake of the engine, not of the user).
    """
    if client <= last:
        raise ValueError(f"client {client} added after {last}; sums must run in ascending order")
    if not (weight > 0 and math.isfinite(weight)):
        raise UpdateError(f"Client {client} reports {weight} rows; its update cannot be weighted.")


def delta_to(params: State, update: Mapping[str, torch.Tensor]) -> State:
    """What a client changed, name -> float32 difference.

    Args:
        params: the adapter that it was sent.
        update: its parameters, any floating dtype.
    """
    return {n: tensor.detach().to(device="cpu", dtype=torch.float32) - params[n] for n, tensor in update.items()}


class RunningMean:
    """Accumulates ``weight * (client - global)``; memory is one adapter whatever the number of clients."""

    #: A running sum leaves nobody out and has nothing to say.
    whole = False
    refused: Mapping[int, str] = MappingProxyType({})
    figures: Mapping[str, float] = MappingProxyType({})

    def __init__(self, params: State):
        self._params = params
        self._sums: State = {}
        self._weights: dict[str, float] = {}
        self._single: set[str] = set()  # sums that hold one client's delta as it is, not yet multiplied
        self._last = -1

    def add(self, client: int, weight: float, update: Mapping[str, torch.Tensor]) -> None:
        """Add one client; clients must come in ascending order.

        Args:
            client: id.
            weight: positive weight, the client's rows or 1.
            update: the client's parameters, any floating dtype.

        Raises:
            UpdateError: the weight is not positive and finite.
            ValueError: the clients come out of order (a mistake of the engine, not of the user).
        """
        check_client(client, weight, self._last)
        self._last = client
        self.add_delta(weight, delta_to(self._params, update))

    def add_delta(self, weight: float, deltas: State) -> None:
        """Add a difference that is known already; the tensors become the sum's own.

        Args:
            weight: its weight.
            deltas: name -> float32 difference to the global parameters.
        """
        for name, delta in deltas.items():
            if name not in self._sums:
                self._sums[name], self._weights[name] = delta, weight
                self._single.add(name)
                continue
            if name in self._single:
                self._sums[name].mul_(self._weights[name])
                self._single.discard(name)
            self._sums[name].add_(delta, alpha=weight)
            self._weights[name] += weight

    def mean(self) -> State:
        """The weighted mean of the deltas; names that nobody sent are absent."""
        # n * delta / n would round; the mean over one client is its delta.
        return {
            name: total.clone() if name in self._single else total / self._weights[name]
            for name, total in self._sums.items()
        }
