"""One client's influence is bounded, exactly, on both halves."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fs_fedmllm.aggregators.norms import l2_norm
from fs_fedmllm.errors import UpdateError
from fs_fedmllm.privacy.clipped_sum import ClippedSum
from fs_fedmllm.privacy.clipping import clip, clip_update

PARAMS = {"a": torch.tensor([[0.5, -0.25]]), "b": torch.tensor([1.0, 2.0, -3.0])}


def moved(scale: float, seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: t + scale * torch.randn(t.shape, generator=generator) for name, t in PARAMS.items()}


def test_hand_values() -> None:
    delta = {"a": torch.tensor([3.0]), "b": torch.tensor([[4.0]])}
    assert l2_norm(delta) == 5.0  # over both tensors, not each
    clipped = clip(delta, 1.0)
    assert clipped["a"].item() == pytest.approx(0.6, rel=2e-6)
    assert clipped["b"].item() == pytest.approx(0.8, rel=2e-6)
    same = clip(delta, 10.0)
    assert torch.equal(same["a"], delta["a"]) and torch.equal(same["b"], delta["b"])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-(2.0**40), 2.0**40, width=32), min_size=1, max_size=40),
    st.floats(1e-6, 1e6),
)
def test_never_above_the_bound(values: list[float], bound: float) -> None:
    clipped = clip({"x": torch.tensor(values, dtype=torch.float32)}, bound)
    assert math.sqrt(sum(float(v) ** 2 for v in clipped["x"].double())) <= bound


def test_not_finite_is_refused() -> None:
    with pytest.raises(UpdateError, match="finite"):
        clip({"x": torch.tensor([1.0, float("nan")])}, 1.0)


def test_client_half_leaves_small_updates_alone_and_the_server_takes_them() -> None:
    small = moved(1e-4, 0)
    assert all(torch.equal(small[n], t) for n, t in clip_update(PARAMS, small, 1.0).items())
    large = clip_update(PARAMS, moved(50.0, 1), 0.5)
    total = ClippedSum(PARAMS, 0.5, 1)
    total.add(1, 1.0, large)
    assert l2_norm(total.mean()) == pytest.approx(0.5, rel=1e-4) and l2_norm(total.mean()) <= 0.5


def test_a_client_without_its_half_is_refused_and_named() -> None:
    total = ClippedSum(PARAMS, 0.5, 2)
    with pytest.raises(UpdateError, match=r"Client 3 .*clip_norm = 0\.5: it did not clip"):
        total.add(3, 1.0, moved(1.0, 2))
    assert total.mean() == {}
    total.add(3, 1.0, clip_update(PARAMS, moved(1.0, 2), 0.5))  # the refusal left nothing behind
    decoded = ClippedSum(PARAMS, 0.5, 1, strict=False)  # a codec may have made it longer
    decoded.add(3, 1.0, moved(1.0, 2))
    assert 0.499 < l2_norm(decoded.mean()) <= 0.5


def test_sensitivity_by_brute_force() -> None:
    """Leave any client out of any subset: the mean moves by at most C / expected; replaced: by at most twice that."""
    bound, expected = 0.3, 4
    updates = {k: clip_update(PARAMS, moved(10.0 ** (k - 4), k), bound) for k in range(1, 8)}

    def mean(clients: tuple[int, ...]) -> dict[str, torch.Tensor]:
        total = ClippedSum(PARAMS, bound, expected, empty=True)
        for client in clients:
            total.add(client, 1.0, updates[client])
        return total.mean()

    def distance(one: tuple[int, ...], other: tuple[int, ...]) -> float:
        first, second = mean(one), mean(other)
        return l2_norm({name: first[name] - second[name] for name in first})

    largest = 0.0
    for size in range(1, 6):
        for clients in itertools.combinations(updates, size):
            for left_out in clients:
                without = tuple(c for c in clients if c != left_out)
                largest = max(largest, distance(clients, without))
                for other in set(updates) - set(clients):
                    replaced = tuple(sorted((*without, other)))
                    assert distance(clients, replaced) <= 2 * bound / expected
    assert bound / expected * 0.999 < largest <= bound / expected


def test_the_divisor_and_the_weights_are_fixed() -> None:
    update = clip_update(PARAMS, moved(1.0, 5), 0.2)
    one, two = ClippedSum(PARAMS, 0.2, 5), ClippedSum(PARAMS, 0.2, 5)
    one.add(1, 1.0, update)
    two.add(1, 1.0, update)
    two.add(2, 1.0, update)
    for name in PARAMS:  # a second client doubles the mean: nothing is normalised by who came
        torch.testing.assert_close(two.mean()[name], 2 * one.mean()[name])
    with pytest.raises(ValueError, match="every weight is 1"):
        one.add(2, 40.0, update)


def test_every_name_is_released() -> None:
    total = ClippedSum(PARAMS, 1.0, 2)
    total.add(1, 1.0, {"a": PARAMS["a"] + 0.1})
    assert set(total.mean()) == set(PARAMS)  # who sent which tensors must not show
    assert set(ClippedSum(PARAMS, 1.0, 2, empty=True).mean()) == set(PARAMS)
