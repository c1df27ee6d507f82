"""The running mean of the clients' deltas, and what updates are refused."""

import pytest
import torch

from fs_fedmllm.aggregators import RunningMean, check_update
from fs_fedmllm.algorithms import OPTIMIZERS
from fs_fedmllm.errors import UpdateError


def zeros(*names):
    return {name: torch.zeros(2) for name in names}


def test_rows_are_weights():
    mean = RunningMean({"w": torch.tensor([1.0])})
    mean.add(1, 2.0, {"w": torch.tensor([3.0])})  # delta 2
    mean.add(2, 6.0, {"w": torch.tensor([-1.0])})  # delta -2
    # (2 * 2 + 6 * -2) / 8 = -1
    assert mean.mean()["w"].item() == -1.0


def test_each_tensor_is_averaged_over_the_clients_that_sent_it():
    mean = RunningMean(zeros("all", "images", "texts", "none"))
    mean.add(1, 1.0, {"all": torch.full((2,), 4.0), "images": torch.full((2,), 5.0)})
    mean.add(2, 3.0, {"all": torch.full((2,), 8.0), "texts": torch.full((2,), 7.0)})
    got = mean.mean()
    # all: (1 * 4 + 3 * 8) / 4 = 7; the others are the one client's, neither shrunk nor lost
    assert {name: tensor[0].item() for name, tensor in got.items()} == {"all": 7.0, "images": 5.0, "texts": 7.0}


@pytest.mark.parametrize("ids", [[2, 1], [1, 1], [1, 3, 2]])
def test_clients_out_of_order_are_a_mistake(ids):
    mean = RunningMean(zeros("w"))
    with pytest.raises(ValueError, match="ascending order"):
        for client in ids:
            mean.add(client, 1.0, zeros("w"))


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
def test_impossible_weights(weight):
    mean = RunningMean(zeros("w"))
    with pytest.raises(UpdateError, match="Client 3 reports"):
        mean.add(3, weight, zeros("w"))
    mean.add(3, 1.0, {"w": torch.ones(2)})  # a refusal leaves the sum as it was
    assert torch.equal(mean.mean()["w"], torch.ones(2))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_sums_are_float32_whatever_arrives(dtype):
    mean = RunningMean({"w": torch.full((2,), 0.1)})
    for client in range(1, 4):
        mean.add(client, 5.0, {"w": torch.full((2,), 1.5, dtype=dtype, requires_grad=True)})
    got = mean.mean()["w"]
    assert got.dtype == torch.float32
    assert not got.requires_grad
    assert got.tolist() == pytest.approx([1.4, 1.4], rel=1e-6)


def test_bfloat16_sums_do_not_stall():
    """256 + 1 is 256 in bfloat16; a float32 sum of a thousand small deltas must not lose any."""
    mean = RunningMean({"w": torch.zeros(1)})
    for client in range(1, 1001):
        mean.add(client, 1.0, {"w": torch.tensor([1.0], dtype=torch.bfloat16)})
    assert mean.mean()["w"].item() == 1.0


def test_inputs_are_not_written_to():
    params, update = {"w": torch.ones(2)}, {"w": torch.full((2,), 3.0)}
    mean = RunningMean(params)
    mean.add(1, 7.0, update)
    mean.add(2, 7.0, update)
    mean.mean()
    assert torch.equal(params["w"], torch.ones(2))
    assert torch.equal(update["w"], torch.full((2,), 3.0))


def test_nobody_sent_anything():
    assert RunningMean(zeros("w")).mean() == {}


@pytest.mark.parametrize(
    ("update", "reason"),
    [
        ({}, "sent no tensors"),
        ({"x": torch.zeros(2)}, "unknown tensor 'x'"),
        ({"w": torch.zeros(2, 1)}, r"'w' with shape \(2, 1\) instead of \(2,\)"),
        ({"w": torch.zeros(2, dtype=torch.int64)}, "something other than a floating-point tensor"),
        ({"w": [0.0, 0.0]}, "something other than a floating-point tensor"),
        ({"v": torch.zeros(2), "w": torch.tensor([0.0, float("nan")])}, "'w' that are not finite"),
        ({"w": torch.tensor([float("-inf"), 0.0])}, "'w' that are not finite"),
        ({"w": torch.tensor([float("inf"), 0.0], dtype=torch.float16)}, "'w' that are not finite"),
        ({"w": torch.tensor([1e300, 0.0], dtype=torch.float64)}, "or beyond 1e"),
        ({"w": torch.tensor([-1e38, 0.0])}, "or beyond 1e"),
    ],
)
def test_refused_updates_name_the_client_and_the_tensor(update, reason):
    with pytest.raises(UpdateError, match=f"^Client 7 .*{reason}"):
        check_update(7, zeros("v", "w"), update)


def test_accepted_updates():
    params = zeros("v", "w")
    check_update(1, params, zeros("v"))
    check_update(1, params, {"w": torch.tensor([1e14, -1e-45])})
    check_update(1, params, {"w": torch.zeros(2, dtype=torch.bfloat16), "v": torch.zeros(2, requires_grad=True)})


@pytest.mark.parametrize("method", OPTIMIZERS)
def test_the_largest_accepted_update_keeps_the_adapter_finite(method):
    server, params = OPTIMIZERS[method](), zeros("w")
    state = server.init(params)
    for _ in range(3):
        update = {"w": torch.tensor([9e14, -9e14])}
        check_update(1, params, update)
        mean = RunningMean(params)
        mean.add(1, 1e6, update)
        mean.add(2, 1e6, update)
        params, state = server.step(params, state, mean.mean())
        assert all(bool(t.isfinite().all()) for t in (params | state).values())
        params = zeros("w")
