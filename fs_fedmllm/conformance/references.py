"""The papers' server updates once more, for one coordinate, in plain Python floats: the second opinion.

Written from the papers' pseudo-code and sharing nothing with ``fs_fedmllm.aggregators``. ``None`` in the deltas stands
for a round in which no client sent the coordinate.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Hyper:
    """Hyper-parameters by the papers' names; ``lr`` is the server's eta."""

    lr: float
    beta1: float
    beta2: float
    tau: float
    alpha: float = 0.01


Deltas = Sequence[float | None]
#: (hyper-parameters, value before round 0, mean delta of each round) -> value after each round.
Reference = Callable[[Hyper, float, Deltas], list[float]]


def fedavg(hyper: Hyper, value: float, deltas: Deltas) -> list[float]:
    """McMahan et al. 2017, Algorithm 1, with a server learning rate."""
    trajectory = []
    for delta in deltas:
        value += hyper.lr * delta if delta is not None else 0.0
        trajectory.append(value)
    return trajectory


def fedavgm(hyper: Hyper, value: float, deltas: Deltas) -> list[float]:
    """Hsu, Qi and Brown 2019: v <- beta v + Delta, w <- w + lr v (their Delta is w - w_k, hence their minus)."""
    velocity, trajectory = 0.0, []
    for delta in deltas:
        if delta is not None:
            velocity = hyper.beta1 * velocity + delta
            value += hyper.lr * velocity
        trajectory.append(value)
    return trajectory


def _adaptive(second: Callable[[Hyper, float, float], float]) -> Reference:
    """Reddi et al. 2021, Algorithm 2, lines 10 to 15."""

    def reference(hyper: Hyper, value: float, deltas: Deltas) -> list[float]:
        m, v, trajectory = 0.0, hyper.tau**2, []
        for delta in deltas:
            if delta is not None:
                m = hyper.beta1 * m + (1 - hyper.beta1) * delta
                v = second(hyper, v, delta**2)
                value += hyper.lr * m / (math.sqrt(v) + hyper.tau)
            trajectory.append(value)
        return trajectory

    return reference


def feddyn(hyper: Hyper, value: float, deltas: Deltas) -> list[float]:
    """Acar et al. 2021, Algorithm 1, with every client in every round."""
    h, trajectory = 0.0, []
    for delta in deltas:
        if delta is not None:
            h -= hyper.alpha * delta
            value += delta - h / hyper.alpha
        trajectory.append(value)
    return trajectory


def _yogi(hyper: Hyper, v: float, square: float) -> float:
    if v > square:
        return v - (1 - hyper.beta2) * square
    return v + (1 - hyper.beta2) * square if v < square else v


REFERENCES: dict[str, Reference] = {
    "fedavg": fedavg,
    "fedavgm": fedavgm,
    "fedadagrad": _adaptive(lambda hyper, v, square: v + square),
    "fedadam": _adaptive(lambda hyper, v, square: hyper.beta2 * v + (1 - hyper.beta2) * square),
    "fedyogi": _adaptive(_yogi),
    "scaffold": fedavg,  # the server's step on x; its variates are in conformance.federated
    "feddyn": feddyn,
}

#: How each paper weights the clients: n_k / N, or 1 / |S| (Reddi et al., Algorithm 2, line 10).
WEIGHTING: dict[str, str] = {
    "fedavg": "samples",
    "fedavgm": "samples",
    "fedadagrad": "uniform",
    "fedadam": "uniform",
    "fedyogi": "uniform",
    "scaffold": "uniform",
    "feddyn": "uniform",
}

#: Hyper-parameters under which a method is FedAvg: no momentum and, for the adaptive ones, a tau so large that the
#: denominator stays at sqrt(tau^2) + tau = 2 tau, which the learning rate cancels. FedDyn's
#: server adds up all differences and is never FedAvg.
FEDAVG_LIMIT: dict[str, dict[str, float]] = {
    "fedavg": {"lr": 1.0},
    "fedavgm": {"lr": 1.0, "beta1": 0.0},
    "fedadagrad": {"lr": 2.0e3, "beta1": 0.0, "tau": 1.0e3},
    "fedadam": {"lr": 2.0e3, "beta1": 0.0, "beta2": 1.0, "tau": 1.0e3},
    "fedyogi": {"lr": 2.0e3, "beta1": 0.0, "beta2": 1.0, "tau": 1.0e3},
    "scaffold": {"lr": 1.0},
}
