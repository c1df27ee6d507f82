"""The rounds that the checks use, their mean, and comparisons of results."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import torch

from fs_fedmllm.algorithms import ServerOptimizer, State


class Mean(Protocol):
    """What a mean must offer; see :class:`fs_fedmllm.aggregators.RunningMean`."""

    def add(self, client: int, weight: float, update: Mapping[str, torch.Tensor]) -> None:
        """Add one client's parameters."""

    def mean(self) -> State:
        """The mean delta."""


MeanFactory = Callable[[State], Mean]
#: (client id, rows, parameters)
Client = tuple[int, int, State]


def example_params() -> State:
    """A small adapter whose names are not in alphabetical order, with values that arithmetic likes to lose."""
    generator = torch.Generator().manual_seed(20240229)
    params = {
        name: 0.1 * torch.randn(shape, generator=generator)
        for name, shape in (("layers.10.q", (3, 4)), ("layers.2.q", (5,)), ("layers.2.k", (2, 2)))
    }
    params["layers.2.q"][:4] = torch.tensor([0.0, -0.0, 1.0e-40, -3.0e4])
    return params


def example_round(params: State, index: int) -> list[Client]:
    """Three clients of 1, 5 and 14 rows with deltas between 1e-4 and 0.1; in round 3 nobody moves.

    In odd rounds client 4 does not send the last tensor, in round 2 client 2 does not, and in round 4 nobody does.
    """
    generator = torch.Generator().manual_seed(index)
    clients = []
    for client, rows in ((2, 5), (4, 14), (9, 1)):
        size = 0.0 if index == 3 else 10.0 ** -(1 + (index + client) % 4)
        update = {n: p + size * torch.randn(p.shape, generator=generator) for n, p in params.items()}
        if index == 4 or (client == 4 and index % 2) or (client == 2 and index == 2):
            update.pop("layers.2.k")
        clients.append((client, rows, update))
    return clients


def weight(server: ServerOptimizer, rows: int) -> float:
    """A client's weight under the server's weighting."""
    return float(rows) if server.weighting == "samples" else 1.0


def aggregate(server: ServerOptimizer, mean: MeanFactory, params: State, clients: Sequence[Client]) -> State:
    """The mean delta of a round."""
    total = mean({name: p.clone() for name, p in params.items()})
    for client, rows, update in clients:
        total.add(client, weight(server, rows), update)
    return total.mean()


def same_bits(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> str:
    """The first name whose bits differ, or an empty string; 0.0 and -0.0 differ."""
    if set(one) != set(other):
        return min(set(one) ^ set(other))
    return next(
        (
            name
            for name in sorted(one)
            if one[name].dtype != other[name].dtype
            or one[name].shape != other[name].shape
            or not torch.equal(*(t.reshape(-1).contiguous().view(torch.uint8) for t in (one[name], other[name])))
        ),
        "",
    )


def close(expected: Mapping[str, torch.Tensor], got: Mapping[str, torch.Tensor], message: str) -> None:
    """Equal within 1e-6 of each tensor's largest value."""
    for name, tensor in expected.items():
        worst = float((tensor.double() - got[name].double()).abs().max())
        allowed = 1e-6 * float(tensor.abs().max()) + 1e-9
        assert worst <= allowed, f"{message} ({name!r} is off by {worst:.3g}, {allowed:.3g} allowed)"
