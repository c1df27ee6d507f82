"""Updates as whole numbers modulo 2^32, so that masks cancel to the last bit and the sum cannot wrap.

A value x in [-R, R] of a client with weight w (of at most W) becomes ``round(x / R * w / W * S)`` with
``S = floor((2^31 - 1) / n)`` for n clients, so the sum of n of them fits a signed 32-bit word. A further word carries
the weight. What rounding costs: each client's number is off by at most half a unit, and the weighted mean, whose unit
is ``R W / (S * sum of weights)``, by at most n / 2 of those: with equal weights R / (2 S), about R n / 2^32.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from fs_fedmllm.algorithms.state import State
from fs_fedmllm.errors import PrivacyError, UpdateError

_TOP = 2**31 - 1


@dataclass(frozen=True)
class FixedPoint:
    """The numbers that all clients of a round agree on.

    Attributes:
        names: the federated tensors, in the order of the vector.
        shapes: of each.
        clients: how many may be summed.
        value_range: R, in the units of the parameters.
        weight_bound: W, the largest weight.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    clients: int
    value_range: float
    weight_bound: int

    @classmethod
    def of(cls, params: Mapping[str, torch.Tensor], clients: int, value_range: float, weight_bound: int) -> FixedPoint:
        """For an adapter.

        Raises:
            PrivacyError: so many rows cannot be added up in 32 bits.
        """
        if clients * weight_bound > _TOP:
            raise PrivacyError(
                f"{clients} clients with up to {weight_bound} rows each cannot be weighted under secure aggregation: "
                f"their sum may pass {_TOP}. Use a server method with equal weights (fedadam, fedyogi, fedadagrad)."
            )
        names = tuple(sorted(params))
        shapes = tuple(tuple(params[name].shape) for name in names)
        return cls(names, shapes, clients, value_range, weight_bound)

    @property
    def words(self) -> int:
        """Length of a vector: one word per parameter, one for the weight."""
        return 1 + sum(math.prod(shape) for shape in self.shapes)

    @property
    def scale(self) -> int:
        """S: the whole number that R becomes at the largest weight."""
        return _TOP // self.clients

    @property
    def unit(self) -> float:
        """What one unit of a client's vector stands for at the largest weight."""
        return self.value_range / self.scale

    @property
    def rounding(self) -> float:
        """Bound on the L2 norm of what rounding changes in one client's vector at the largest weight."""
        # Half a unit per coordinate, and a little for double precision.
        return 0.5001 * self.unit * math.sqrt(self.words - 1)

    def encode(self, delta: Mapping[str, torch.Tensor], weight: int) -> tuple[np.ndarray, int]:
        """A client's vector.

        Args:
            delta: name -> client minus global.
            weight: from 1 to ``weight_bound``.

        Returns:
            uint32, shape (words,), and how many values were beyond the range and set to its end.

        Raises:
            UpdateError: names, shapes or weight are others, or a value is not finite.
        """
        if not 1 <= weight <= self.weight_bound:
            raise UpdateError(f"a weight of {weight} is outside 1 to {self.weight_bound}.")
        if set(delta) != set(self.names):
            raise UpdateError(
                "the update does not have exactly the federated tensors, which secure aggregation needs."
            )
        vector = np.empty(self.words, dtype=np.int64)
        vector[0] = weight
        clipped, at = 0, 1
        factor = weight / self.weight_bound * self.scale / self.value_range
        for name, shape in zip(self.names, self.shapes, strict=True):
            if tuple(delta[name].shape) != shape:
                raise UpdateError(f"{name!r} has shape {tuple(delta[name].shape)} instead of {shape}.")
            values = delta[name].detach().cpu().double().reshape(-1).numpy()
            if not np.isfinite(values).all():
                raise UpdateError(f"{name!r} holds values that are not finite (NaN or infinite).")
            clipped += int((np.abs(values) > self.value_range).sum())
            inside = np.clip(values, -self.value_range, self.value_range)
            numbers = np.rint(inside * factor)
            vector[at : at + len(values)] = np.clip(numbers, -self.scale, self.scale)
            at += len(values)
        return (vector & 0xFFFFFFFF).astype(np.uint32), clipped

    def decode(self, total: np.ndarray, divisor: float | None = None) -> State:
        """The mean, from the sum of the vectors modulo 2^32.

        Args:
            total: uint32, shape (words,).
            divisor: what to divide by instead of the sum of the weights.

        Returns:
            name -> float64 tensor.

        Raises:
            PrivacyError: the sum of the weights cannot be one, so the masks were not all taken off.
        """
        signed = total.view(np.int32)
        weights = int(signed[0])
        if not 1 <= weights <= self.clients * self.weight_bound:
            raise PrivacyError("The unmasked sum has no valid weight: a client did not follow the protocol.")
        unit = self.unit * self.weight_bound / (weights if divisor is None else divisor)
        mean, at = {}, 1
        for name, shape in zip(self.names, self.shapes, strict=True):
            size = math.prod(shape)
            values = signed[at : at + size].astype(np.float64) * unit
            mean[name] = torch.from_numpy(values).reshape(shape)
            at += size
        return mean
