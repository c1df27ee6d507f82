"""Quantised updates: exact where they must be, bounded where they round, and refused where they do not fit."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fs_fedmllm.compression import Codec, download
from fs_fedmllm.compression.quantize import dequantize, groups, pack_nibbles, quantize, unpack_nibbles
from fs_fedmllm.errors import UpdateError
from fs_fedmllm.models.export import adapter_bytes

KINDS = ("bfloat16", "int8", "int4")


def _adapter(seed: int, scale: float = 1.0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"a": (8, 33), "b": (5, 8), "c": (7,), "empty": (0,)}
    return {name: scale * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def _plus(start, delta):
    return {name: start[name] + delta[name] for name in start}


@given(st.lists(st.integers(-8, 7), max_size=41))
@settings(max_examples=60, deadline=None)
def test_nibbles_come_back(numbers) -> None:
    steps = torch.tensor(numbers, dtype=torch.int8)
    packed = pack_nibbles(steps)
    assert packed.dtype == torch.uint8 and len(packed) == -(-len(numbers) // 2)
    assert torch.equal(unpack_nibbles(packed, len(numbers)), steps)


@given(st.integers(1, 200), st.sampled_from([0, 1, 3, 64]), st.sampled_from([7, 127]), st.integers(0, 9))
@settings(max_examples=80, deadline=None)
def test_a_value_is_off_by_at_most_half_a_step(count, size, levels, seed) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(count, generator=generator) * 10.0 ** torch.randint(-20, 10, (1,), generator=generator)
    steps, scales = quantize(values, levels, size)
    assert len(scales) == groups(count, size) and int(steps.abs().max()) <= levels
    half = scales.repeat_interleave(size or count)[:count] / 2
    assert bool(((values - dequantize(steps, scales, size)).abs() <= half * (1 + 1e-5)).all())
    if size == 1:  # each value is its own scale
        assert torch.allclose(dequantize(steps, scales, size), values, rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_client_that_changed_nothing_sends_exactly_nothing(kind) -> None:
    start = _adapter(0)
    start["a"][0, :3] = torch.tensor([-0.0, 0.0, 1e-42])
    codec = Codec(kind)
    tensors, residual = codec.encode(start, start, {})
    decoded = codec.decode(tensors, start)
    for name, tensor in start.items():
        assert torch.equal(decoded[name].view(torch.int32), tensor.view(torch.int32))
        assert not residual[name].any()


@pytest.mark.parametrize("kind", KINDS)
def test_error_feedback_telescopes(kind) -> None:
    """Over a client's turns, the decoded differences add up to the true ones, less the last remainder."""
    codec, residual = Codec(kind, group=16), {}
    meant = {name: torch.zeros_like(t, dtype=torch.float64) for name, t in _adapter(0).items()}
    arrived = {name: torch.zeros_like(t, dtype=torch.float64) for name, t in _adapter(0).items()}
    plain = {name: torch.zeros_like(t, dtype=torch.float64) for name, t in _adapter(0).items()}
    bias = _adapter(99, 1e-4)  # too small beside the noise to survive rounding on its own
    for turn in range(60):
        start = _adapter(turn)
        delta = _plus(_adapter(1000 + turn, 1e-2), bias)
        state = _plus(start, delta)
        tensors, residual = codec.encode(start, state, residual)
        decoded = codec.decode(tensors, start)
        without = Codec(kind, 16, error_feedback=False)
        forgetful = without.decode(without.encode(start, state, {})[0], start)
        for name in start:
            meant[name] += (state[name] - start[name]).double()
            arrived[name] += (decoded[name] - start[name]).double()
            plain[name] += (forgetful[name] - start[name]).double()
    for name in ("a", "b", "c"):
        gap = meant[name] - arrived[name]
        assert (gap - residual[name].double()).abs().max() < 1e-4  # float32 rounding of 60 sums of start and delta
        if kind == "int4":
            assert gap.norm() < 0.5 * (meant[name] - plain[name]).norm()


@pytest.mark.parametrize(("kind", "bound"), [("bfloat16", 2.0**-8), ("int8", 1 / 254), ("int4", 1 / 14)])
def test_one_step_is_bounded(kind, bound) -> None:
    start, codec = _adapter(1), Codec(kind)
    state = _plus(start, _adapter(2))
    tensors, residual = codec.encode(start, state, {})
    decoded = codec.decode(tensors, start)
    for name in ("a", "b", "c"):
        delta = state[name] - start[name]
        limit = bound * delta.abs().max() * 1.001
        assert residual[name].abs().max() <= limit
        assert torch.allclose(decoded[name] + residual[name], state[name], atol=1e-5)
        # The contraction that error feedback's theory asks for.
        assert residual[name].norm() < delta.norm()


def test_bytes_are_those_of_the_file() -> None:
    start = {f"layer.{i}.weight": torch.randn(64, 64) for i in range(8)}
    state = {name: t + 0.01 for name, t in start.items()}
    size = {kind: len(adapter_bytes(Codec(kind).encode(start, state, {})[0])) for kind in ("float32", *KINDS)}
    assert size["float32"] == len(adapter_bytes(start))
    values, header = 8 * 64 * 64, 400
    assert 0 < size["bfloat16"] - 2 * values < header
    assert 0 < size["int8"] - (values + values // 64 * 4) < header
    assert 0 < size["int4"] - (values // 2 + values // 64 * 4) < header


@pytest.mark.parametrize("kind", KINDS)
def test_a_part_of_the_adapter_is_a_part_of_it(kind) -> None:
    start, codec = _adapter(1), Codec(kind)
    older = {"a": torch.ones(8, 33)}
    extra = torch.arange(3.0)
    tensors, residual = codec.encode(start, {"b": start["b"] + 1, "rule/b": extra}, older)
    assert torch.equal(tensors["rule/b"], extra)
    decoded = codec.decode(tensors, start)
    assert set(decoded) == {"b", "rule/b"} and torch.equal(decoded["rule/b"], extra)
    assert torch.allclose(decoded["b"], start["b"] + 1, atol=2e-2)
    assert torch.equal(residual["a"], older["a"])


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_names_does_not_matter(kind) -> None:
    start, codec = _adapter(1), Codec(kind)
    tensors, _ = codec.encode(start, _plus(start, _adapter(2)), {})
    decoded = codec.decode(tensors, start)
    turned = codec.decode(tensors, dict(reversed(start.items())))
    assert all(torch.equal(decoded[name], turned[name]) for name in start)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_arrives_as_such_and_is_not_remembered(kind, bad) -> None:
    start, codec = _adapter(1), Codec(kind)
    state = {name: t.clone() for name, t in start.items()}
    state["b"][2, 3] = bad
    older = {"b": torch.full_like(start["b"], 0.25)}
    tensors, residual = codec.encode(start, state, older)
    decoded = codec.decode(tensors, start)
    assert not decoded["b"].isfinite().all() and decoded["a"].isfinite().all()
    assert torch.equal(residual["b"], older["b"])


@pytest.mark.parametrize("kind", KINDS)
def test_a_malformed_update_is_refused(kind) -> None:
    start, codec = _adapter(1), Codec(kind)
    good, _ = codec.encode(start, _plus(start, _adapter(2)), {})
    codec.decode(good, start)
    for name, tensor in good.items():
        for wrong in (tensor[:-1], tensor.unsqueeze(0), tensor.double(), torch.cat([tensor, tensor])):
            with pytest.raises(UpdateError, match=name):
                codec.decode({**good, name: wrong}, start)
        with pytest.raises(UpdateError, match=r"fedmllm\.compression\.upload"):
            codec.decode({k: v for k, v in good.items() if k != name}, start)
    for wrong in (start, {**good, "a": start["a"]}):
        with pytest.raises(UpdateError, match=r"fedmllm\.compression\.upload"):
            codec.decode(wrong, start)


def test_the_server_sends_what_is_configured() -> None:
    start = _adapter(3)
    assert all(torch.equal(download(start, "float32")[n], start[n]) for n in start)
    sent = download(start, "bfloat16")
    assert all(t.dtype == torch.bfloat16 for t in sent.values())
    again = download({name: t.float() for name, t in sent.items()}, "bfloat16")
    assert all(torch.equal(again[n], sent[n]) for n in sent)
