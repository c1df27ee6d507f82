"""A whole round's updates, sorted, checked and averaged."""

import itertools

import pytest
import torch

from fs_fedmllm.aggregators import RunningMean
from fs_fedmllm.aggregators.updates import ordered, weighted_mean
from fs_fedmllm.errors import UpdateError


def example():
    generator = torch.Generator().manual_seed(0)
    updates = [
        (client, float(rows), {n: torch.randn(50, generator=generator) for n in "ab"})
        for client, rows in ((3, 7), (1, 2), (9, 31))
    ]
    del updates[1][2]["b"]
    return updates


def test_the_bytes_of_the_running_mean_in_any_order():
    mean = RunningMean({n: torch.zeros(50) for n in "ab"})
    for client, weight, delta in sorted(example(), key=lambda update: update[0]):
        mean.add(client, weight, delta)
    for updates in itertools.permutations(example()):
        got = weighted_mean(updates)
        assert all(torch.equal(tensor, got[name]) for name, tensor in mean.mean().items())


def test_inputs_are_not_written_to():
    updates = example()
    weighted_mean(updates)
    assert all(
        torch.equal(delta[n], again[n])
        for (_, _, delta), (_, _, again) in zip(updates, example(), strict=True)
        for n in delta
    )


@pytest.mark.parametrize(
    ("updates", "reason"),
    [
        ([], "No client sent"),
        ([(2, 1.0, {}), (1, 1.0, {}), (2, 1.0, {})], "Client 2 sent two updates"),
        ([(2, 0.0, {})], "Client 2 has weight 0"),
        ([(1, 1.0, {}), (2, float("nan"), {})], "Client 2 has weight nan"),
        ([(2, float("inf"), {})], "Client 2 has weight inf"),
    ],
)
def test_refusals(updates, reason):
    with pytest.raises(UpdateError, match=reason):
        ordered(updates)
