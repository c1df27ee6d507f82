"""Whole numbers instead of floats: what it costs, and that the sum cannot wrap."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from modular import modular_sum

from fs_fedmllm.errors import PrivacyError, UpdateError
from fs_fedmllm.privacy.secure_aggregation.fixed_point import FixedPoint

PARAMS = {"b": torch.zeros(2, 3), "a": torch.zeros(4)}


def test_hand_values() -> None:
    codec = FixedPoint(("x",), ((3,),), clients=1, value_range=1.0, weight_bound=4)
    vector, beyond = codec.encode({"x": torch.tensor([1.0, -0.5, 3.0])}, 4)
    assert vector.tolist() == [4, 2**31 - 1, 2**32 - 2**30, 2**31 - 1] and beyond == 1
    quarter, _ = codec.encode({"x": torch.tensor([1.0, 0.0, 0.0])}, 1)
    assert quarter.tolist() == [1, round((2**31 - 1) / 4), 0, 0]
    assert codec.words == 4


@pytest.mark.parametrize("clients", [2, 3, 7, 100])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_extreme_sum_does_not_wrap(clients: int, sign: float) -> None:
    codec = FixedPoint.of(PARAMS, clients, 0.5, 9)
    largest = {name: torch.full_like(t, 2.0 * sign) for name, t in PARAMS.items()}
    total = modular_sum([codec.encode(largest, 9)[0] for _ in range(clients)])
    for tensor in codec.decode(total).values():
        assert torch.allclose(tensor, torch.full_like(tensor, 0.5 * sign), rtol=1e-7)
    # The bound is tight: a scale that is one unit larger for each client would leave 31 bits.
    assert clients * codec.scale <= 2**31 - 1 < clients * (codec.scale + 1)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_the_error_bound_that_is_stated(data: st.DataObject) -> None:
    clients = data.draw(st.integers(1, 12))
    bound = data.draw(st.sampled_from([1e-3, 0.3, 1.0, 50.0]))
    rows = data.draw(st.lists(st.integers(1, 60), min_size=clients, max_size=clients))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**31)))
    codec = FixedPoint.of(PARAMS, clients, bound, max(rows))
    deltas = [{n: torch.from_numpy(rng.uniform(-bound, bound, t.shape)) for n, t in PARAMS.items()} for _ in rows]
    mean = codec.decode(modular_sum([codec.encode(d, r)[0] for d, r in zip(deltas, rows, strict=True)]))
    allowed = clients / 2 * codec.unit * max(rows) / sum(rows) * (1 + 1e-4)
    for name in PARAMS:
        exact = sum(r * d[name] for r, d in zip(rows, deltas, strict=True)) / sum(rows)
        assert (mean[name] - exact).abs().max() <= allowed


def test_rounding_cannot_lengthen_beyond_its_bound() -> None:
    codec = FixedPoint.of({"x": torch.zeros(5000)}, 1000, 1.0, 1)
    values = {"x": (torch.rand(5000, dtype=torch.float64) - 0.5)}
    got = codec.decode(codec.encode(values, 1)[0])
    assert float((got["x"] - values["x"]).norm()) <= codec.rounding


def test_what_cannot_be_sent() -> None:
    codec = FixedPoint.of(PARAMS, 3, 1.0, 10)
    good = {name: torch.zeros_like(t) for name, t in PARAMS.items()}
    for delta, weight, said in (
        ({"a": good["a"]}, 1, "exactly the federated tensors"),
        ({**good, "c": good["a"]}, 1, "exactly the federated tensors"),
        ({**good, "a": torch.zeros(5)}, 1, "shape"),
        ({**good, "a": torch.full((4,), float("nan"))}, 1, "finite"),
        ({**good, "a": torch.full((4,), float("inf"))}, 1, "finite"),
        (good, 11, "outside 1 to 10"),
        (good, 0, "outside 1 to 10"),
    ):
        with pytest.raises(UpdateError, match=said):
            codec.encode(delta, weight)
    with pytest.raises(PrivacyError, match="equal weights"):
        FixedPoint.of(PARAMS, 1000, 1.0, 2**22)
