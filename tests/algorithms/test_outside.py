"""Algorithms of other packages: whatever their hooks do is used as it is meant, or named."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from short_runs import CONFIGS

import fs_fedmllm
from fs_fedmllm import config as schema
from fs_fedmllm.algorithms.outside import ask, built, client_half, faults_of, tensors, term, two
from fs_fedmllm.errors import ConfigError, UpdateError
from fs_fedmllm.rounds.client import ClientSide
from fs_fedmllm.rounds.client_update import ClientUpdate
from fs_fedmllm.rounds.server import ServerSide, initial
from fs_fedmllm.rounds.trainer import UpdateLog


def params() -> dict[str, torch.Tensor]:
    return {"a": torch.zeros(2), "b": torch.ones(1)}


class Plain(fs_fedmllm.ServerOptimizer):
    name: ClassVar[str] = "plain"

    def init(self, params):
        return {}

    def step(self, params, state, mean_delta):
        return {name: tensor + mean_delta.get(name, 0) for name, tensor in params.items()}, state


def a_round(method: Any, start: dict[str, torch.Tensor]) -> tuple[Any, Any]:
    config = schema.load(CONFIGS / "aligned_a05.yaml")
    optimizer = built(method, method.build)
    server = ServerSide.of(config, optimizer)
    state = initial(optimizer, start)
    current = server.begin(0, [1], start, state)
    server.take(current, ClientUpdate(1, 1, {k: v + 1 for k, v in start.items()}, UpdateLog(0.0, 0.0, 0.0, 1, 1, 0.0)))
    return server.step(current, start, state)


def test_a_step_that_is_right_keeps_its_bits() -> None:
    new, state = a_round(Plain, params())
    assert list(new) == ["a", "b"] and new["a"].tolist() == [1.0, 1.0] and new["b"].tolist() == [2.0] and not state


def fails(*_: Any) -> Any:
    raise RuntimeError("boom")


def made(change: Any) -> Any:
    return {"step": lambda self, p, s, d: change(Plain.step(self, p, s, d)[0], s)}


@pytest.mark.parametrize(
    ("methods", "said"),
    [
        ({"step": lambda *_: None}, "step gave NoneType, and two dictionaries are needed"),
        (made(lambda new, s: new), "step gave dict, and two dictionaries"),
        (made(lambda new, s: ({k: v.double() for k, v in new.items()}, s)), r"step gave 'a' as torch\.float64 \(2,\)"),
        (made(lambda new, s: ({k: v.int() for k, v in new.items()}, s)), r"step gave 'a' as torch\.int32"),
        (made(lambda new, s: ({k: v[None] for k, v in new.items()}, s)), r"step gave 'a' as torch\.float32 \(1, 2\)"),
        (made(lambda new, s: ({"a": new["a"]}, s)), "step lacks the adapter's 'b'"),
        (made(lambda new, s: (new | {"c": new["a"]}, s)), "step gave, beside the adapter, 'c'"),
        (made(lambda new, s: (((k, v) for k, v in new.items()), s)), "step gave generator, and a dictionary"),
        (made(lambda new, s: (new, {"t": 1.0})), "step gave float for 't'"),
        (made(lambda new, s: (new, None)), "step gave NoneType, and a dictionary"),
        ({"step": fails}, r"step failed \(RuntimeError: boom, .*test_outside\.py:\d+\)"),
        ({"init": lambda *_: None}, "init gave NoneType"),
        ({"joined": lambda *_: None}, "joined gave NoneType"),
        ({"expected": lambda *_: [1]}, "expected gave list"),
        ({"broadcast": lambda self, p, s: {"a": p["a"]}}, "broadcast lacks the adapter's 'b'"),
        (
            {"broadcast": lambda self, p, s: p | {"c": p["a"]}},
            "broadcast gave 'c' beside the adapter, and such a name",
        ),
        ({"build": classmethod(lambda cls: None)}, "build gave NoneType, and a ServerOptimizer is needed"),
        ({"weighting": "mine"}, "weighting is 'mine', and it must be 'samples' or 'uniform'"),
    ],
)
def test_what_a_server_half_does_is_used_or_named(methods, said) -> None:
    with pytest.raises(ConfigError, match=rf"The algorithm .*\.Odd: {said}"):
        a_round(type("Odd", (Plain,), methods), params())


def test_an_adapter_that_is_not_finite_is_no_new_adapter() -> None:
    with pytest.raises(UpdateError, match=r"federate\.method plain\) made values in 'a' that are not finite"):
        a_round(type("Odd", (Plain,), made(lambda new, s: ({k: v / 0 for k, v in new.items()}, s))), params())


def test_a_step_in_place_changes_nothing_but_the_new_adapter() -> None:
    def in_place(self, p, s, d):
        for name in p:
            p[name].add_(d.pop(name))
        return p, {"twice": p["a"], "more": p["a"]}

    start = params()
    new, state = a_round(type("Odd", (Plain,), {"step": in_place}), start)
    assert start["a"].tolist() == [0.0, 0.0] and new["a"].tolist() == [1.0, 1.0]
    assert len({tensor.data_ptr() for tensor in state.values()}) == 2  # a file takes no tensors that share memory


def test_a_client_half_writes_into_nobody_elses_tensors() -> None:
    class Zeroes(fs_fedmllm.ClientHalf):
        def begin(self, received, kept, start):
            for tensor in (*received.values(), *kept.values(), *start.values()):
                tensor.zero_()
            return start

    received, kept = {"b": torch.ones(1)}, {"mine/b": torch.ones(1)}
    side: Any = SimpleNamespace(adapter=SimpleNamespace(names=["b"]), halves=lambda client: [Zeroes()])
    start, _ = ClientSide.begin(side, 1, received, kept)
    assert start["b"].tolist() == [0.0] and received["b"].tolist() == kept["mine/b"].tolist() == [1.0]


def test_what_a_client_half_does_is_used_or_named() -> None:
    half: Any = type("Half", (fs_fedmllm.ClientHalf,), {"begin": lambda *_: None, "correct": lambda *_: 0.5})()
    for call, said in (
        (lambda: ask(half, "begin", {}, {}, {}), "begin gave NoneType"),
        (lambda: term(half, "correct", [], [], 0, 1), "correct gave float, and a tensor of one number"),
        (lambda: two({}, half, "finish"), "finish gave dict, and two dictionaries"),
        (lambda: tensors({3: torch.ones(1)}, half, "finish"), "finish gave Tensor for 3"),
        (
            lambda: tensors({"a": torch.ones(1).to_sparse()}, half, "finish"),
            r"finish gave a tensor of torch\.sparse_coo",
        ),
        (lambda: tensors({"a": torch.ones(1, device="meta")}, half, "finish"), "on meta for 'a'"),
        (lambda: client_half(5, Plain), "client gave int, and a ClientHalf is needed"),
        (
            lambda: faults_of(type("Odd", (Plain,), {"faults": classmethod(lambda *_: "x")}), None),
            "faults gave no seq",
        ),
        (lambda: faults_of(type("Odd", (Plain,), {"faults": classmethod(lambda *_: None)}), None), "faults failed"),
    ):
        with pytest.raises(ConfigError, match=said):
            call()


@pytest.mark.parametrize("odd", [Plain(), int, "fedavg", type("Odd", (Plain,), {"name": ""})])
def test_what_is_no_algorithm_is_refused(odd) -> None:
    with pytest.raises(ConfigError, match=r"give the class|must be a class .* and has a name"):
        fs_fedmllm.run(CONFIGS / "aligned_a05.yaml", algorithm=odd)
    with pytest.raises(ConfigError, match="cannot be registered"):
        fs_fedmllm.register_algorithm(odd)
