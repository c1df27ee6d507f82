"""Checks of algorithms with a part on the client that lasts from round to round: SCAFFOLD, FedDyn, or yours.

An algorithm has ``server``, a :class:`fs_fedmllm.aggregators.ServerOptimizer`, and ``client_update(received, kept,
gradient, lr, steps) -> (sent, kept)``, a client's local gradient descent. The toy clients have one weight each and
quadratic losses of different curvature, so that plain averaging of long updates stops away from the optimum of the
mean loss.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch

from fs_fedmllm.aggregators import RunningMean
from fs_fedmllm.algorithms import ClientContext, ClientHalf, FedAvg, ServerOptimizer, State
from fs_fedmllm.conformance.examples import same_bits

Gradient = Callable[[torch.Tensor], torch.Tensor]
Tensors = Mapping[str, torch.Tensor]


class Algorithm(Protocol):
    """What the checks need."""

    server: ServerOptimizer

    def client_update(
        self, received: Tensors, kept: Tensors, gradient: Gradient, lr: float, steps: int
    ) -> tuple[State, State]:
        """One client's update: what it sends and what it keeps."""


@dataclasses.dataclass
class OurAlgorithm:
    """One of ours, with the very code that runs in a federation, on a model of one tensor and plain SGD.

    Attributes:
        server: the server half; its class names the client half.
        parameters: of the client half.
    """

    server: ServerOptimizer
    parameters: Any = None

    def client_update(
        self, received: Tensors, kept: Tensors, gradient: Gradient, lr: float, steps: int
    ) -> tuple[State, State]:
        """An update through the client half."""
        context = ClientContext(client=1, names=("w",), device=torch.device("cpu"), layers=(None,), depth=1)
        half = type(self.server).client(self.parameters, context) or ClientHalf()
        start = half.begin(received, kept, {"w": received["w"]})
        weight = torch.nn.Parameter(start["w"].clone())
        for step in range(steps):
            weight.grad = gradient(weight.detach())
            if half.corrects:
                half.correct([weight], [start["w"]], step, steps)
            with torch.no_grad():
                weight.sub_(lr * weight.grad)
        trained = {"w": weight.detach().clone()}
        return half.finish(trained, trained)


#: (slope a, optimum b) of each client's loss a / 2 (w - b)^2.
TWO: Sequence[tuple[float, float]] = ((1.0, 1.0), (2.0, -2.0))
FOUR: Sequence[tuple[float, float]] = ((1.0, 1.0), (2.0, -2.0), (0.5, 3.0), (1.5, 0.25))


def slope(a: float, b: float, w: torch.Tensor) -> torch.Tensor:
    """The gradient of a / 2 (w - b)^2."""
    return a * (w - b)


def optimum(clients: Sequence[tuple[float, float]]) -> float:
    """Where the mean of the clients' losses is smallest."""
    return sum(a * b for a, b in clients) / sum(a for a, _ in clients)


@dataclasses.dataclass
class Federated:
    """A toy federation's state after some rounds."""

    params: State
    server: State
    kept: dict[int, State]


def federate(
    algorithm: Algorithm,
    clients: Sequence[tuple[float, float]],
    rounds: Sequence[Sequence[int]],
    *,
    lr: float = 0.25,
    steps: int = 2,
    reverse: bool = False,
) -> Federated:
    """Run rounds of the given clients (numbers from 0) from w = 0.

    Args:
        algorithm: what to run.
        clients: their losses.
        rounds: who takes part.
        lr: local learning rate.
        steps: local steps.
        reverse: let the clients of a round train in the other order.
    """
    server = algorithm.server
    params: State = {"w": torch.zeros(1)}
    state, kept = server.init(params), dict[int, State]()
    for chosen in rounds:
        sent = server.broadcast(params, state)
        updates = {}
        for client in sorted(chosen, reverse=reverse):
            gradient = functools.partial(slope, *clients[client])
            updates[client] = algorithm.client_update(sent, kept.get(client, {}), gradient, lr, steps)
        mean = RunningMean(server.expected(params))
        for client, (update, _) in sorted(updates.items()):
            mean.add(client, 1.0, update)
        kept |= {client: held for client, (_, held) in updates.items()}
        params, state = server.step(params, server.joined(state, len(chosen) / len(clients)), mean.mean())
    return Federated(params, state, kept)


def check_noop_round(algorithm: Algorithm) -> None:
    """Clients that do not move (learning rate 0) leave the adapter bit-identical for as many rounds as it takes."""
    done = federate(algorithm, TWO, [[0, 1]] * 4, lr=0.0)
    assert not same_bits({"w": torch.zeros(1)}, done.params), "clients that did not move moved the adapter"


def check_client_order(algorithm: Algorithm) -> None:
    """Which client's update is computed first changes no bit."""
    one, other = (federate(algorithm, FOUR, [[0, 1, 2, 3]] * 3, reverse=reverse) for reverse in (False, True))
    assert not same_bits(one.params, other.params), "the order of the clients changes the adapter"


def check_server_sum(algorithm: Algorithm) -> None:
    """What the server keeps is the mean, over all clients, of what they keep; 0 for those who never took part."""
    rounds = [[0, 1], [1, 2], [0, 2], [2], [0, 1, 2]]
    done = federate(algorithm, FOUR, rounds)
    kept = [sum(held.values(), torch.zeros(1)) for held in done.kept.values()]
    wanted = torch.stack(kept).sum(dim=0) / len(FOUR)
    found = next((t for name, t in done.server.items() if name in ("c.w", "h.w")), None)
    assert found is not None, "the server keeps no sum"
    assert kept and bool(wanted.abs() > 1e-3), "the clients keep nothing"
    torch.testing.assert_close(
        found, wanted, msg=f"the server keeps {found.item():.6g}, its clients {wanted.item():.6g}"
    )


def check_drift(algorithm: Algorithm) -> None:
    """With long updates on unlike clients plain averaging stops away from the optimum and the algorithm reaches it."""
    best, everyone = optimum(FOUR), [list(range(len(FOUR)))] * 60
    plain = federate(OurAlgorithm(FedAvg()), FOUR, everyone, steps=10, lr=0.1)
    drift = abs(plain.params["w"].item() - best)
    assert drift > 0.1
    done = federate(algorithm, FOUR, everyone, steps=10, lr=0.1)
    left = abs(done.params["w"].item() - best)
    assert left < 1e-3, f"it stops {left:.4g} away from the optimum, plain averaging {drift:.4g}"


#: w and the server's sum after rounds 1 and 2 of both clients of ``TWO``, by hand: lr 1/4, two steps, alpha 1/2.
LITERALS: dict[str, list[tuple[float, float]]] = {
    "scaffold": [(-0.53125, 1.0625), (-0.8076171875, 0.552734375)],
    "feddyn": [(-0.96875, 0.2421875), (-1.20849609375, 0.1810302734375)],
}


def check_literals(algorithm: Algorithm) -> None:
    """Two rounds of two clients give the numbers computed by hand from the paper's algorithm."""
    for index, (weight, kept) in enumerate(LITERALS[algorithm.server.name], start=1):
        done = federate(algorithm, TWO, [[0, 1]] * index)
        found = next(t for name, t in done.server.items() if name in ("c.w", "h.w"))
        assert abs(done.params["w"].item() - weight) < 1e-6, (
            f"w is {done.params['w'].item():.8g} after round {index}, by hand it is {weight:.8g}"
        )
        assert abs(found.item() - kept) < 1e-6, f"the server keeps {found.item():.8g} after round {index}, not {kept}"


def check_single_client_is_centralised(algorithm: Algorithm) -> None:
    """One client that trains alone in every round ends at its own optimum, as centralised training does."""
    done = federate(algorithm, TWO[:1], [[0]] * 60, steps=5)
    assert abs(done.params["w"].item() - TWO[0][1]) < 1e-3, "one client alone does not reach its own optimum"


FEDERATED_CHECKS: dict[str, Callable[[Algorithm], None]] = {
    "noop_round": check_noop_round,
    "client_order": check_client_order,
    "server_sum": check_server_sum,
    "drift": check_drift,
    "literals": check_literals,
    "single_client_is_centralised": check_single_client_is_centralised,
}
