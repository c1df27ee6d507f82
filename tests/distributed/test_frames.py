"""Messages as bytes: what goes in comes out, and nothing else is let in."""

from __future__ import annotations

import dataclasses
import json
import random
import struct
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load
from short_runs import REPOSITORY
from wire_frames import HEADER, HEADERS, LIMITS, NUMBERS, cut, entry, floats, frame, joined, mutant, sample_message

from fs_fedmllm.distributed.contracts import ANY_TENSORS, NO_TENSORS, Contract, FrameLimits, TensorSpec, check_tensors
from fs_fedmllm.distributed.errors import ContractError, FrameError, VersionError
from fs_fedmllm.distributed.frames import CHUNK, PREFIX, decode, encode
from fs_fedmllm.distributed.messages import Message


def read(data: bytes, contract: Contract = ANY_TENSORS, limits: FrameLimits = LIMITS) -> Message:
    return decode(cut(data), lambda kind, header: contract, limits)


def same(left: Message, right: Message) -> None:
    assert left.kind == right.kind and left.header == right.header and list(left.tensors) == list(right.tensors)
    for name, tensor in left.tensors.items():
        assert tensor.dtype == right.tensors[name].dtype and torch.equal(tensor, right.tensors[name]), name


# --- round trips ----------------------------------------------------------------------------------------------------


def test_everything_that_travels_comes_back() -> None:
    message = sample_message()
    data = joined(message)
    same(message, read(data))
    same(message, read(data, Contract.like(message.tensors)))


def test_the_tensors_part_is_a_safetensors_file() -> None:
    message = sample_message()
    data = joined(message)
    _, _, _, header_size, size = PREFIX.unpack(data[: PREFIX.size])
    file = load(data[PREFIX.size + header_size : PREFIX.size + header_size + size])
    assert set(file) == set(message.tensors)
    assert all(torch.equal(tensor, message.tensors[name]) for name, tensor in file.items())


@pytest.mark.parametrize("count", [0, 1, CHUNK // 4 - 60, CHUNK // 4, CHUNK, 3 * CHUNK // 4 + 1])
def test_chunks_are_full_but_the_last(count: int) -> None:
    message = Message("update", {}, {"a": torch.ones(3), "b": torch.arange(count, dtype=torch.float32)})
    chunks = list(encode(message))
    assert all(len(chunk) == CHUNK for chunk in chunks[:-1]) and 0 < len(chunks[-1]) <= CHUNK
    same(message, decode(iter(chunks), lambda kind, header: ANY_TENSORS))


def test_many_tensors() -> None:
    message = Message("update", {}, {f"layer.{i}.weight": torch.full((3, i % 5), float(i)) for i in range(2000)})
    same(message, read(joined(message), Contract.like(message.tensors), FrameLimits()))


def test_memory_is_about_one_adapter() -> None:
    """48 MB in, 48 MB out: Python's own allocations (chunks) stay at a few of them."""
    message = Message("update", {}, {f"w{i}": torch.randn(1 << 20) for i in range(12)})
    tracemalloc.start()
    got = decode(encode(message), lambda kind, header: Contract.like(message.tensors))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    same(message, got)
    assert peak < 8 * CHUNK


def texts(**sizes: int) -> st.SearchStrategy[str]:
    """Everything that UTF-8 has a form for."""
    return st.text(st.characters(exclude_categories=["Cs"]), **sizes)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63) + 1, 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | texts(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc é"), inner, max_size=3),
    max_leaves=10,
)  # fmt: skip
dtypes = st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.int8, torch.uint8, torch.int64])


@settings(max_examples=30, deadline=None)
@given(
    st.dictionaries(texts(max_size=9), json_values, max_size=4),
    st.dictionaries(
        texts(min_size=1, max_size=20).filter(lambda name: name != "__metadata__"),
        st.tuples(dtypes, st.lists(st.integers(0, 4), max_size=4)),
        max_size=5,
    ),
)
def test_any_message_comes_back(header: dict, shapes: dict) -> None:
    message = Message("k", header, {name: torch.ones(shape, dtype=dtype) for name, (dtype, shape) in shapes.items()})
    same(message, read(joined(message), Contract.like(message.tensors)))


# --- what is not sent -----------------------------------------------------------------------------------------------

UNSENDABLE = {
    "kind": Message("Bad kind"),
    "nan": Message("k", {"x": float("nan")}),
    "infinity": Message("k", {"x": [float("inf")]}),
    "large": Message("k", {"x": 2**63}),
    "key": Message("k", {"x": {1: 2}}),
    "object": Message("k", {"x": b"bytes"}),
    "surrogate": Message("k", {"x": "\ud800"}),
    "bool": Message("k", {}, {"x": torch.ones(2, dtype=torch.bool)}),
    "complex": Message("k", {}, {"x": torch.ones(2, dtype=torch.complex64)}),
    "sparse": Message("k", {}, {"x": torch.ones(2).to_sparse()}),
    "meta": Message("k", {}, {"x": torch.ones(2, device="meta")}),
    "nameless": Message("k", {}, {"": torch.ones(2)}),
    "large header": Message("k", {"x": "x" * LIMITS.header_bytes}),
    "large tensors": Message("k", {}, {"x": torch.empty(LIMITS.message_bytes, dtype=torch.int8)}),
}


@pytest.mark.parametrize("name", UNSENDABLE)
def test_the_sender_refuses_before_the_first_chunk(name: str) -> None:
    with pytest.raises(FrameError):
        encode(UNSENDABLE[name], LIMITS)


# --- what is not let in ---------------------------------------------------------------------------------------------

TWO = {"a": entry(end=8), "b": entry(start=8, end=16)}
MALFORMED: dict[str, bytes] = {
    "no bytes": b"",
    "half a prefix": frame()[:11],
    "other bytes": b"GET / HTTP/1.1\r\n" * 20,
    "magic": frame(magic=b"FMLX"),
    "reserved bytes": frame(zero=1),
    "header length beyond the limit": frame(header_size=2**32 - 1),
    "header longer than the message": frame(header_size=50_000),
    "size beyond the limit": frame(size=2**64 - 1),
    "size of nothing": frame(size=0),
    "size too small for its index": frame(index={"a": entry()}, data=floats(1, 2), size=16),
    "size above its data": frame(index={"a": entry()}, data=floats(1, 2), size=4000),
    "index length beyond the message": frame(index_size=2**64 - 1),
    "index length beyond the limit": frame(index=b" " * (LIMITS.index_bytes + 1)),
    "header that is no JSON": frame(b"{kind: 1}"),
    "header that is no text": frame(b"\xff\xfe" + HEADER),
    "empty header": frame(b""),
    "header that is a list": frame(b"[]"),
    "header without a kind": frame(b'{"header":{}}'),
    "header with more": frame(b'{"kind":"k","header":{},"more":1}'),
    "kind that is a number": frame(b'{"kind":1,"header":{}}'),
    "kind with a line break": frame(b'{"kind":"k\\n","header":{}}'),
    "header of NaN": frame(b'{"kind":"k","header":{"x":NaN}}'),
    "header of infinity": frame(b'{"kind":"k","header":{"x":-Infinity}}'),
    "number that becomes infinite": frame(b'{"kind":"k","header":{"x":1e999}}'),
    "number of 65 bits": frame(b'{"kind":"k","header":{"x":9223372036854775808}}'),
    "number of 5000 digits": frame(b'{"kind":"k","header":{"x":' + b"9" * 5000 + b"}}"),
    "repeated key": frame(b'{"kind":"k","kind":"l","header":{}}'),
    "repeated key inside": frame(b'{"kind":"k","header":{"a":{"b":1,"b":2}}}'),
    "lone surrogate": frame(b'{"kind":"k","header":{"x":"\\ud800"}}'),
    "nesting of 17 levels": frame(b'{"kind":"k","header":{"x":' + b"[" * 17 + b"]" * 17 + b"}}"),
    "nesting of 30000 levels": frame(b"[" * 30_000),
    "nesting of 30000 mappings": frame(b'{"a":' * 10_000),
    "index that is a list": frame(index=b"[]"),
    "index with metadata": frame(index={"__metadata__": {"a": "b"}}),
    "index with nesting": frame(index=b"[" * 30_000),
    "entry that is a list": frame(index={"a": [1, 2]}),
    "entry without offsets": frame(index={"a": {"dtype": "F32", "shape": [2]}}),
    "entry with more": frame(index={"a": entry() | {"more": 1}}, data=floats(1, 2)),
    "unknown dtype": frame(index={"a": entry("F8_E4M3", end=2)}, data=b"ab"),
    "bool": frame(index={"a": entry("BOOL", end=2)}, data=b"\x01\x02"),
    "complex": frame(index={"a": entry("C64", [1])}, data=floats(1, 2)),
    "dtype that is a list": frame(index={"a": entry() | {"dtype": []}}, data=floats(1, 2)),
    "shape that is a number": frame(index={"a": entry() | {"shape": 2}}, data=floats(1, 2)),
    "negative dimension": frame(index={"a": entry(shape=[-2])}, data=floats(1, 2)),
    "two negative dimensions": frame(index={"a": entry(shape=[-1, -2])}, data=floats(1, 2)),
    "dimension that is true": frame(index={"a": entry(shape=[True, 2])}, data=floats(1, 2)),
    "dimension of 2.0": frame(index={"a": entry(shape=[2.0])}, data=floats(1, 2)),
    "nine dimensions": frame(index={"a": entry(shape=[1] * 8 + [2])}, data=floats(1, 2)),
    "product that wraps at 64 bits": frame(index={"a": entry(shape=[2**32, 2**32, 2])}, data=floats(1, 2)),
    "empty with endless strides": frame(index={"a": entry(shape=[0, 2**62, 2**62], end=0)}),
    "offsets that overlap": frame(index={"a": entry(), "b": entry(start=4, end=12)}, data=floats(1, 2, 3)),
    "offsets with a hole": frame(index={"a": entry(), "b": entry(start=12, end=20)}, data=floats(1, 2, 3, 4, 5)),
    "offsets out of order": frame(index={"b": entry(start=8, end=16), "a": entry()}, data=floats(1, 2, 3, 4)),
    "offsets backwards": frame(index={"a": entry(start=8, end=0)}, data=floats(1, 2)),
    "offsets of 64 bits": frame(index={"a": entry(start=2**64, end=2**64 + 8)}, data=floats(1, 2)),
    "offsets that are a text": frame(index={"a": entry(start="0", end="8")}, data=floats(1, 2)),
    "three offsets": frame(index={"a": entry() | {"data_offsets": [0, 8, 8]}}, data=floats(1, 2)),
    "size that is not the shape's": frame(index={"a": entry(end=4)}, data=floats(1)),
    "data that no tensor owns": frame(index={"a": entry()}, data=floats(1, 2, 3)),
    "data too short": frame(index=TWO, data=floats(1, 2, 3)),
    "too many tensors": frame(index={f"{i}": entry(shape=[0], end=0) for i in range(LIMITS.tensors + 1)}),
    "the same name twice": frame(index=b'{"a":' + json.dumps(entry()).encode() + b',"a":' + json.dumps(
        entry(start=8, end=16)).encode() + b"}", data=floats(1, 2, 3, 4)),
    "a name without letters": frame(index={"": entry()}, data=floats(1, 2)),
    "a name of 513 bytes": frame(index={"x" * 513: entry()}, data=floats(1, 2)),
    "a name that is no text": frame(index={"\ud800": entry()}, data=floats(1, 2)),
    "NaN": frame(index={"a": entry()}, data=floats(1, float("nan"))),
    "infinity": frame(index={"a": entry()}, data=floats(1, float("-inf"))),
    "bfloat16 NaN": frame(index={"a": entry("BF16", end=4)}, data=b"\x00\x00\xc0\x7f"),
    "wrong digest": frame(index={"a": entry()}, data=floats(1, 2), digest=bytes(32)),
    "half a digest": frame(index={"a": entry()}, data=floats(1, 2))[:-16],
    "bytes behind": frame(tail=b"x"),
    "a second message behind": frame() + frame(),
}  # fmt: skip


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_bytes_are_refused_with_little_memory(name: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(FrameError) as caught:
            read(MALFORMED[name])
        assert tracemalloc.get_traced_memory()[1] < 20 << 20
    finally:
        tracemalloc.stop()
    assert str(caught.value).isascii() and len(str(caught.value)) < 400


def test_the_page_counts_them() -> None:
    page = " ".join((REPOSITORY / "docs" / "deployment.md").read_text().split())
    assert f"has {len(MALFORMED)} malformed messages, each through the reader (under 20 MiB of memory)" in page


def test_the_table_of_malformed_bytes_can_fail() -> None:
    """Its builder makes good messages where nothing is wrong."""
    got = read(frame(index=TWO, data=floats(1, 2, 3, 4)))
    assert got.header == {"round": 1} and got.tensors["b"].tolist() == [3.0, 4.0]


def test_another_version_is_refused_by_name() -> None:
    with pytest.raises(VersionError, match=r"version 7 .* version 1"):
        read(frame(version=7))


@pytest.mark.parametrize(
    "chunks",
    [
        lambda data: iter([data[:100], data[100:]]),
        lambda data: (data[i : i + 1] for i in range(len(data))),
        lambda data: iter([data, b""]),
        lambda data: iter([b"", data]),
        lambda data: iter([data + bytes(CHUNK)]),
    ],
    ids=["short first", "one byte each", "empty last", "empty first", "too long"],
)
def test_other_cuts_are_refused(chunks: Callable[[bytes], Iterator[bytes]]) -> None:
    with pytest.raises(FrameError):
        decode(chunks(joined(sample_message())), lambda kind, header: ANY_TENSORS, LIMITS)


def test_nothing_large_is_allocated_before_bytes_come() -> None:
    """Four gigabytes announced, reserved and never sent: the reader has asked first, and waits without them."""
    asked: list[int] = []
    index = json.dumps({"a": entry("U8", [3 << 30], 0, 3 << 30)}).encode()
    data = frame(index=index, size=8 + len(index) + (3 << 30))
    tracemalloc.start()
    with pytest.raises(FrameError):
        decode(cut(data[:-32]), lambda kind, header: ANY_TENSORS, FrameLimits(), asked.append)
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()
    assert asked == [8 + len(index) + (3 << 30)]


# --- contracts ------------------------------------------------------------------------------------------------------

SPECS = {"a": TensorSpec(torch.float32, (2,)), "b": TensorSpec(torch.float32, (2,))}


@pytest.mark.parametrize(
    ("contract", "says"),
    [
        (NO_TENSORS, "not expected|bytes are announced"),
        (Contract({"a": SPECS["a"]}), "not expected"),
        (Contract(SPECS | {"c": TensorSpec(torch.int8, (0,))}), "missing"),
        (Contract(SPECS | {"b": TensorSpec(torch.int32, (2,))}), "torch.int32 is expected"),
        (Contract(SPECS | {"b": TensorSpec(torch.float32, (2, 1))}), "shape"),
        (Contract(SPECS | {"b": TensorSpec(torch.float32, (3,))}), "shape"),
        (Contract(max_bytes=15), "15"),
    ],
)
def test_what_breaks_a_contract_is_refused(contract: Contract, says: str) -> None:
    with pytest.raises(ContractError, match=says):
        read(frame(index=TWO, data=floats(1, 2, 3, 4)), contract)
    with pytest.raises(ContractError, match=says):  # tensors that another carrier brought are held to the same
        check_tensors({"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([3.0, 4.0])}, contract)


@pytest.mark.parametrize(
    "tensors",
    [
        {"a": [1.0]},
        {1: torch.ones(1)},
        {"": torch.ones(1)},
        {"a": torch.ones(1, device="meta")},
        {"a": torch.ones(2).to_sparse()},
        {"a": torch.ones(1, dtype=torch.complex64)},
        {"a": torch.nn.Parameter(torch.ones(1))},
        {"a": torch.ones([1] * 9)},
        {str(i): torch.ones(1) for i in range(40)},
        {"a": torch.ones(2000)},
        {"a": torch.tensor([float("nan")])},
    ],
)
def test_what_could_not_travel_in_a_frame_is_refused_from_another_carrier(tensors: Any) -> None:
    with pytest.raises(FrameError):
        check_tensors(tensors, ANY_TENSORS, FrameLimits(message_bytes=4000, tensors=32))


def test_contracts_may_leave_some_of_it_open() -> None:
    data = frame(index=TWO, data=floats(1, 2, 3, float("inf")))
    partial = Contract(SPECS | {"c": TensorSpec(torch.int8, (9,))}, partial=True, finite=False)
    assert read(data, partial).tensors["b"][1] == float("inf")
    free = Contract(SPECS | {"b": TensorSpec(torch.float32, (None,))}, finite=False, max_bytes=16)
    assert len(read(data, free).tensors) == 2
    with pytest.raises(ContractError):
        read(data, dataclasses.replace(free, finite=True))


# --- structure-aware fuzzing ----------------------------------------------------------------------------------------

numbers = st.sampled_from(NUMBERS)


@st.composite
def mutants(draw: st.DrawFn) -> bytes:
    """A well-formed message with some of its structure or bytes changed; half of them with a right digest."""
    index: dict = {f"t{i}": entry(start=8 * i, end=8 * i + 8) for i in range(draw(st.integers(0, 3)))}
    values = draw(st.lists(st.floats(width=32), min_size=2 * len(index), max_size=2 * len(index)))
    for name in list(index):
        match draw(st.integers(0, 9)):
            case 0:
                index[name]["dtype"] = draw(st.sampled_from(["I64", "F64", "F16", "BOOL", "C64", "", 3, None]))
            case 1:
                index[name]["shape"] = draw(st.lists(numbers, max_size=9))
            case 2:
                index[name]["data_offsets"] = draw(st.lists(numbers, max_size=3))
            case 3:
                index[draw(st.text(max_size=3))] = index.pop(name)
            case 4:
                index[name] = draw(json_values)
    raw = json.dumps(index).encode()
    header = draw(st.sampled_from(HEADERS) | st.binary())
    lies = draw(
        st.fixed_dictionaries(
            {},
            optional={
                "header_size": st.integers(0, 2**32 - 1),
                "size": st.integers(0, 2**64 - 1),
                "index_size": st.integers(0, 2**64 - 1),
                "version": st.integers(0, 3),
                "tail": st.binary(max_size=40),
            },
        )
        | st.just({})
    )
    data = bytearray(frame(HEADER if draw(st.booleans()) else header, raw, floats(*values), **lies))
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(data) - 1))
        data[at] ^= 1 << draw(st.integers(0, 7))
    return bytes(data[: draw(st.integers(0, len(data)))] if draw(st.integers(0, 4)) == 0 else data)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(mutants(), st.booleans())
def test_mutants_are_read_or_refused(data: bytes, strict: bool) -> None:
    """Only our own errors come out; what is let in is what a sender could have sent."""
    contract = Contract({f"t{i}": TensorSpec(torch.float32, (2,)) for i in range(3)}, partial=True)
    try:
        message = read(data, contract if strict else ANY_TENSORS)
    except (FrameError, VersionError):
        return
    assert all(not t.is_floating_point() or torch.isfinite(t).all() for t in message.tensors.values())
    same(message, read(joined(message)))


def test_seeded_mutants_are_read_or_refused() -> None:
    """More of them than hypothesis has time for; its own test above is for the small example."""
    drawn = random.Random(0)
    read_ones = 0
    for _ in range(4000):
        data = mutant(drawn)
        try:
            message = read(data)
        except (FrameError, VersionError):
            continue
        read_ones += 1
        same(message, read(joined(message)))
    assert 20 < read_ones < 2000


def test_every_cut_and_every_flipped_bit_is_noticed() -> None:
    data = frame(index=TWO, data=floats(1, 2, 3, 4))
    for length in range(len(data)):
        with pytest.raises(FrameError):
            read(data[:length])
    for at in range(len(data)):
        for bit in range(8):
            broken = bytearray(data)
            broken[at] ^= 1 << bit
            with pytest.raises((FrameError, VersionError)):
                read(bytes(broken))
    assert struct.calcsize("<4sHHIQ") == PREFIX.size == 20
