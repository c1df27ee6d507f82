"""The server's half of the bound: a sum in which no client weighs more than ``clip_norm``.

The mean divides by the number of clients that a round expects, which is fixed beforehand. Dividing by how many came
(or by their rows) would make the divisor depend on the clients, and the noise would no longer cover it.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import torch

from fs_fedmllm.aggregators.norms import l2_norm
from fs_fedmllm.algorithms.state import State
from fs_fedmllm.errors import UpdateError
from fs_fedmllm.privacy.clipping import clip

#: Rounding that an honest client's clipped update may show: relative to the bound, and to the adapter's own norm
#: (it sends start + delta in float32, and half a unit in the last place of each is lost).
TOLERANCE = 1.0e-3
ROUNDING = 2.0**-23


class ClippedSum:
    """Accumulates clipped deltas with equal weights; the interface of ``RunningMean``.

    Args:
        params: the global parameters, name -> float32 tensor.
        bound: ``fedmllm.privacy.dp.clip_norm``.
        expected: clients in a round by configuration, the divisor.
        empty: whether nobody was drawn (Poisson sampling), so that the mean is zero and not a failure.
        strict: refuse an update beyond the bound, because its client did not do its half; otherwise (the updates went
            through a lossy codec on the way) only clip it again.
    """

    #: See :class:`fs_fedmllm.aggregators.Aggregator`.
    whole = False
    refused: Mapping[int, str] = MappingProxyType({})
    figures: Mapping[str, float] = MappingProxyType({})

    def __init__(self, params: State, bound: float, expected: int, *, empty: bool = False, strict: bool = True):
        self._params = params
        self._bound = bound
        self._expected = expected
        self._strict = strict
        self._last = -1
        self._added = empty
        # In double precision the sum's own rounding is far below clipping.SLACK, whatever the number of clients.
        self._sums = {name: torch.zeros_like(tensor, dtype=torch.float64) for name, tensor in params.items()}
        self._allowed = bound * (1 + TOLERANCE) + ROUNDING * l2_norm(params)

    def add(self, client: int, weight: float, update: Mapping[str, torch.Tensor]) -> None:
        """Add one client; clients must come in ascending order.

        Args:
            client: id.
            weight: must be 1: weighting by rows would let one client count many times.
            update: the client's parameters, any floating dtype.

        Raises:
            UpdateError: the update is beyond the bound; the sum is as before.
            ValueError: clients come out of order, or weigh something other than 1 (a mistake of the engine).
        """
        if client <= self._last:
            raise ValueError(f"client {client} added after {self._last}; sums must run in ascending order")
        if weight != 1:
            raise ValueError(f"client {client} has weight {weight}; under differential privacy every weight is 1")
        delta = {
            name: tensor.detach().to(device="cpu", dtype=torch.float64) - self._params[name].double()
            for name, tensor in update.items()
        }
        norm = l2_norm(delta)
        if self._strict and not norm <= self._allowed:
            raise UpdateError(
                f"Client {client} sent an update of norm {norm:.6g}, beyond fedmllm.privacy.dp.clip_norm = "
                f"{self._bound:g}: it did not clip. Give server and clients the same configuration."
            )
        clipped = clip(delta, self._bound)
        self._last = client
        self._added = True
        for name, tensor in clipped.items():
            self._sums[name].add_(tensor)

    def mean(self) -> State:
        """The sum over the expected number of clients, float64, every name; empty if no update was accepted."""
        if not self._added:
            return {}
        return {name: total / self._expected for name, total in self._sums.items()}
