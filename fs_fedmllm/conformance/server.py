"""Checks of a server optimizer together with the mean that feeds it.

Every check takes ``(server, mean)``, where ``server`` is a ``ServerOptimizer`` (or anything with its ``name``,
``weighting``, ``init`` and ``step``) and ``mean`` makes a ``RunningMean`` (or anything with its ``add`` and ``mean``)
from the global parameters. It returns None, raises AssertionError with what is wrong, or raises NotApplicable.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from safetensors.torch import load, save

from fs_fedmllm.aggregators import RunningMean
from fs_fedmllm.algorithms import ServerOptimizer, State
from fs_fedmllm.conformance.client import toy_training
from fs_fedmllm.conformance.examples import (
    MeanFactory,
    aggregate,
    close,
    example_params,
    example_round,
    same_bits,
    weight,
)
from fs_fedmllm.conformance.references import FEDAVG_LIMIT, REFERENCES, WEIGHTING, Hyper, Reference


class NotApplicable(Exception):
    """The check needs something that this algorithm does not come with, such as a reference."""


Check = Callable[[ServerOptimizer, MeanFactory], None]


def check_noop(server: ServerOptimizer, mean: MeanFactory = RunningMean) -> None:
    """Clients that return what they were sent leave the adapter bit-identical, from a fresh state, for ever."""
    params = example_params()
    state, start = server.init(params), example_params()
    for index in range(5):
        clients = [(client, rows, {n: p.clone() for n, p in params.items()}) for client, rows in ((1, 3), (2, 17))]
        params, state = server.step(params, state, aggregate(server, mean, params, clients))
        changed = same_bits(start, params)
        assert not changed, f"clients changed nothing, and yet {changed!r} is different after round {index}"


def check_pure(server: ServerOptimizer, mean: MeanFactory = RunningMean) -> None:
    """``init`` and ``step`` write into none of their arguments, and the same arguments give the same bits."""
    params = example_params()
    state = server.init(params)
    assert not same_bits(params, example_params()), "init writes into the parameters"
    for index in range(3):
        delta = aggregate(server, mean, params, example_round(params, index))
        copies = [{n: t.clone() for n, t in part.items()} for part in (params, state, delta)]
        first = server.step(params, state, delta)
        arguments = {"parameters": params, "state": state, "mean delta": delta}
        for (what, part), copy in zip(arguments.items(), copies, strict=True):
            changed = same_bits(part, copy)
            assert not changed, f"step writes into its argument: {changed!r} of the {what}"
        second = server.step(params, state, delta)
        for one, other in zip(first, second, strict=True):
            assert not same_bits(one, other), "two steps from the same arguments differ: there is hidden state"
        params, state = first


def check_order(server: ServerOptimizer, mean: MeanFactory = RunningMean) -> None:
    """Arrival order does not matter: a mean either refuses an order (ValueError) or gives the same bits.

    Nor does the order of names, nor which client id an update comes under (up to rounding).
    """
    params = example_params()
    clients = example_round(params, 0)
    expected = aggregate(server, mean, params, clients)
    for order in itertools.permutations(clients):
        try:
            got = aggregate(server, mean, params, order)
        except ValueError:
            continue
        arrived = [client for client, _, _ in order]
        assert not same_bits(expected, got), f"clients arriving as {arrived} give other bits than in ascending order"
    ids = [client for client, _, _ in clients]
    for relabelled in itertools.permutations(clients):
        swapped = [(client, rows, update) for client, (_, rows, update) in zip(ids, relabelled, strict=True)]
        close(expected, aggregate(server, mean, params, swapped), "the same updates under other client ids differ")
    state = server.init(params)
    new, _ = server.step(params, state, expected)
    reversed_delta = {name: expected[name] for name in reversed(expected)}
    reversed_params = {name: params[name] for name in reversed(params)}
    other, _ = server.step(reversed_params, state, reversed_delta)
    assert not same_bits(new, other), "the order of the names changes the result of a step"


def check_weights(server: ServerOptimizer, mean: MeanFactory = RunningMean) -> None:
    """Weights sum to one, per tensor over the clients that sent it, and are those of the paper."""
    known = WEIGHTING.get(server.name, server.weighting)
    assert server.weighting == known, f"{server.name} weights clients by {server.weighting!r}; its paper has {known!r}"
    zero = {"x": torch.zeros(3), "y": torch.zeros(2), "z": torch.zeros(2), "unsent": torch.ones(1)}
    shared = torch.tensor([1.0, -2.0, 0.5])
    same = [(client, rows, {"x": shared}) for client, rows in ((1, 1), (2, 2), (3, 997))]
    got = aggregate(server, mean, zero, same)
    close({"x": shared}, {"x": got["x"]}, "clients with one and the same delta do not give that delta as their mean")
    assert "unsent" not in got, "the mean invents a tensor that no client sent"
    differing = [(1, 1, {"x": 4.0 * shared, "y": torch.ones(2)}), (2, 3, {"x": 8.0 * shared, "z": torch.ones(2)})]
    got = aggregate(server, mean, zero, differing)
    factor = 7.0 if server.weighting == "samples" else 6.0
    close({"x": factor * shared}, {"x": got["x"]}, f"deltas 4 (1 row) and 8 (3 rows) do not give {factor:g}")
    for name, client in (("y", 1), ("z", 2)):
        assert name in got, f"a tensor that only client {client} of 2 sent is lost"
        close({name: torch.ones(2)}, {name: got[name]}, f"a tensor that only client {client} of 2 sent is not its")
    state = server.init(zero)
    new, moved = server.step(zero, state, got)
    assert not same_bits({"u": zero["unsent"]}, {"u": new["unsent"]}), "a tensor that nobody sent moved"
    touched = [name for name in state if name.endswith("unsent") and same_bits({"s": state[name]}, {"s": moved[name]})]
    assert not touched, f"the state {touched} of a tensor that nobody sent changed"


def check_single_client(server: ServerOptimizer, mean: MeanFactory = RunningMean) -> None:
    """One client counts alone, whatever its rows, and three identical clients count as one."""
    params = example_params()
    [update] = [update for client, _, update in example_round(params, 0) if client == 2]
    alone = server.step(params, server.init(params), aggregate(server, mean, params, [(1, 1, update)]))[0]
    for label, clients in (
        ("one client with 1000 rows instead of 1", [(7, 1000, update)]),
        ("three identical clients instead of one", [(client, client, update) for client in (1, 2, 5)]),
    ):
        delta = aggregate(server, mean, params, clients)
        close(alone, server.step(params, server.init(params), delta)[0], f"{label} changes the step")


def check_equals_fedavg(
    server: ServerOptimizer, mean: MeanFactory = RunningMean, limit: Mapping[str, float] | None = None
) -> None:
    """Where its hyper-parameters make it FedAvg, it is FedAvg.

    Args:
        server: a dataclass.
        mean: makes the mean.
        limit: the hyper-parameters that do; by default those known for the name.
    """
    fedavg = fedavg_limit(server, limit)
    params, expected = example_params(), example_params()
    state = fedavg.init(params)
    for index in range(5):
        clients = example_round(expected, index)
        delta = aggregate(fedavg, mean, params, clients)
        for name in expected:
            rows = [(weight(fedavg, n), update[name]) for _, n, update in clients if name in update]
            if rows:
                expected[name] = (sum(w * t.double() for w, t in rows) / sum(w for w, _ in rows)).float()  # type: ignore[union-attr]
        params, state = fedavg.step(params, state, delta)
        close(expected, params, f"{server.name} in its FedAvg limit is not FedAvg in round {index}")
        params = {name: p.clone() for name, p in expected.items()}


def check_centralised(
    server: ServerOptimizer, mean: MeanFactory = RunningMean, limit: Mapping[str, float] | None = None
) -> None:
    """In its FedAvg limit, five rounds of one client that trains ten steps are fifty steps of plain training."""
    fedavg = fedavg_limit(server, limit)
    start = {"weight": torch.zeros(4, 3), "bias": torch.zeros(4)}
    params, state = start, fedavg.init(start)
    for index in range(5):
        update = toy_training(params, range(10 * index, 10 * index + 10))
        params, state = fedavg.step(params, state, aggregate(fedavg, mean, params, [(1, 20, update)]))
    close(toy_training(start, range(50)), params, "one client is not centralised training")


def check_trajectory(
    server: ServerOptimizer, mean: MeanFactory = RunningMean, reference: Reference | None = None
) -> None:
    """Eight rounds of unequal clients agree with an independent float64 calculation, coordinate by coordinate.

    Args:
        server: has ``lr``, ``beta1``, ``beta2`` and ``tau``.
        mean: makes the mean.
        reference: the paper's update of one coordinate; by default the one known for the name.
    """
    reference = reference or REFERENCES.get(server.name)
    if reference is None:
        raise NotApplicable(f"no reference is known for {server.name!r}; pass one")
    params = {name: p.clamp(-0.3, 0.3) for name, p in example_params().items()}
    start, state = params, server.init(params)
    uniform = WEIGHTING.get(server.name, server.weighting) == "uniform"
    deltas: dict[str, list[torch.Tensor | None]] = {name: [] for name in params}
    reached: list[State] = []
    for index in range(8):
        clients = example_round(params, index)
        for name, p in params.items():
            sent = [(1.0 if uniform else rows, u[name].double() - p.double()) for _, rows, u in clients if name in u]
            total = sum(w for w, _ in sent)
            deltas[name].append(torch.stack([w / total * d for w, d in sent]).sum(0) if sent else None)
        params, state = server.step(params, state, aggregate(server, mean, params, clients))
        reached.append(params)
    settings = {name: float(getattr(server, name)) for name in ("lr", "beta1", "beta2", "tau")}
    hyper = Hyper(**settings, alpha=float(getattr(server, "alpha", 0.0)))
    for name, series in deltas.items():
        for position in range(start[name].numel()):
            origin = float(start[name].flatten()[position])
            column = [None if d is None else float(d.flatten()[position]) for d in series]
            wanted = list(reference(hyper, origin, column))
            assert len(wanted) == len(column), (
                f"{server.name}: the reference gives {len(wanted)} values for {len(column)} rounds; it is to give the "
                "coordinate's value after each"
            )
            for index, expected in enumerate(wanted):
                got = float(reached[index][name].flatten()[position])
                assert abs(got - expected) <= 1e-7 + 1e-4 * abs(expected - origin), (
                    f"{server.name}: {name}[{position}] is {got:.9g} after round {index}, the paper's update gives "
                    f"{expected:.9g} (from {origin:.9g} with mean deltas {column[: index + 1]})"
                )


def check_resume(server: ServerOptimizer, mean: MeanFactory = RunningMean) -> None:
    """The state is a flat dictionary of float32 tensors; saved, loaded and shuffled it goes on to the same bits."""
    params = example_params()
    state = server.init(params)
    for index in range(6):
        for name, tensor in (params | state).items():
            assert isinstance(tensor, torch.Tensor), f"the state's {name!r} is no tensor and cannot be saved"
            assert tensor.dtype == torch.float32, f"{name!r} is {tensor.dtype} instead of float32"
        delta = aggregate(server, mean, params, example_round(params, index))
        loaded_params, loaded_state = ({n: load(save(part))[n] for n in sorted(part)} for part in (params, state))
        expected, got = server.step(params, state, delta), server.step(loaded_params, loaded_state, delta)
        for one, other in zip(expected, got, strict=True):
            changed = same_bits(one, other)
            assert not changed, f"after saving and loading in round {index}, {changed!r} is different"
        params, state = expected


def check_precision(server: ServerOptimizer, mean: MeanFactory = RunningMean) -> None:
    """bfloat16, float16 and float64 clients give a float32 mean within the rounding of what they sent."""
    params = {name: p.clamp(-1, 1) for name, p in example_params().items()}
    clients = example_round(params, 0)
    expected = aggregate(server, mean, params, clients)
    for dtype, share in ((torch.bfloat16, 2.0**-8), (torch.float16, 2.0**-11), (torch.float64, 2.0**-22)):
        sent = [(client, rows, {n: t.to(dtype) for n, t in update.items()}) for client, rows, update in clients]
        got = aggregate(server, mean, params, sent)
        for name, tensor in got.items():
            assert tensor.dtype == torch.float32, f"{dtype} clients give a mean in {tensor.dtype}"
            bound = share * max(float(update[name].abs().max()) for _, _, update in clients if name in update) + 1e-7
            worst = float((tensor - expected[name]).abs().max())
            assert worst <= bound, f"{dtype} clients are {worst:.3g} off in {name!r}; rounding allows {bound:.3g}"
        new, _ = server.step(params, server.init(params), got)
        assert all(t.dtype == torch.float32 and bool(t.isfinite().all()) for t in new.values()), f"{dtype} clients"


def fedavg_limit(server: ServerOptimizer, limit: Mapping[str, float] | None = None) -> ServerOptimizer:
    """The same algorithm with hyper-parameters that make it FedAvg."""
    limit = limit if limit is not None else FEDAVG_LIMIT.get(server.name)
    if limit is None or not dataclasses.is_dataclass(server):
        raise NotApplicable(f"no hyper-parameters are known that make {server.name!r} FedAvg; pass a limit")
    changed: Any = dataclasses.replace(server, **limit)  # type: ignore[arg-type]
    return changed


CHECKS: dict[str, Check] = {
    "noop": check_noop,
    "pure": check_pure,
    "order": check_order,
    "weights": check_weights,
    "single_client": check_single_client,
    "equals_fedavg": check_equals_fedavg,
    "centralised": check_centralised,
    "trajectory": check_trajectory,
    "resume": check_resume,
    "precision": check_precision,
}


def certify(server: ServerOptimizer, mean: MeanFactory = RunningMean) -> dict[str, str]:
    """Run every check: name -> "passed", "not applicable: why" or "FAILED: what"."""
    verdicts = {}
    for name, check in CHECKS.items():
        try:
            check(server, mean)
            verdicts[name] = "passed"
        except NotApplicable as reason:
            verdicts[name] = f"not applicable: {reason}"
        except Exception as failure:  # a check must not hide the verdicts of the others
            verdicts[name] = f"FAILED: {failure or type(failure).__name__}"
    return verdicts
