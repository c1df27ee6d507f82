"""FedBuff's step held to numbers worked out by hand: buffer 2, three clients of different speeds."""

from __future__ import annotations

import pytest
import torch

from fs_fedmllm import config as schema
from fs_fedmllm.rounds.client_update import ClientUpdate
from fs_fedmllm.rounds.in_flight import InFlight, by_client, staleness_weight
from fs_fedmllm.rounds.server import ServerSide, server_optimizer
from fs_fedmllm.rounds.trainer import UpdateLog

#: A client that is sent W goes to W / 2 + d.
GOES = {1: 1.0, 2: 2.0, 3: 4.0}
NAME = "base_model.model.layer.lora_B.weight"

#: Who comes in which round, with which staleness (tests/training/test_in_flight.py), and the adapter after it:
#: (s(tau_1) Delta_1 + s(tau_2) Delta_2) / 2 further, s(tau) = (1 + tau)^(-1/2).
#:
#:     round 0  1 from 0: +1, 2 from 0: +2                         0          + 3 / 2
#:     round 1  1 from 1.5: +0.25, 3 from 0: +4 / sqrt(2)          1.5        + (0.25 + 2.8284271) / 2
#:     round 2  1 from 3.0392136: -0.5196068, 2 from 1.5: +1.25 / sqrt(2)
#:     round 3  1 from 3.2213520: -0.6106760, 2 from there: +0.3893240
#:     round 4  1 from 3.1106760: -0.5553380, 3 from 3.0392136: +2.4803932 / sqrt(3)
BY_HAND = [1.5, 3.0392136, 3.2213519, 3.1106759, 3.5490348]
STALENESS = [[0, 0], [0, 1], [0, 1], [0, 0], [0, 2]]
#: The same with weight constant.
CONSTANT = [1.5, 3.625, 3.84375, 3.421875, 4.16015625]


def config_of(*words: str) -> schema.Config:
    raw = {
        "data": {"type": "digits_triage", "splitter": "fedmllm_aligned", "splitter_args": [{"alpha": 5.0}]},
        "federate": {"client_num": 3, "total_round_num": 5},
        "fedmllm": {"async": {"buffer": 2, "seconds": [1, 2, 3]}},
    }
    return schema.from_mapping(schema.apply_overrides(raw, list(words)))


def trajectory(config: schema.Config, rows: dict[int, int]) -> tuple[list[float], list[list[int]]]:
    """The adapter, one number, after each round; and how old its updates were."""
    optimizer = server_optimizer(config)
    assert optimizer is not None
    server = ServerSide.of(config, optimizer)
    params = {NAME: torch.zeros(1)}
    state, flight, sent = optimizer.init(params), InFlight(config, {}), {}
    found, ages = [], []
    for index in range(5):
        current = server.begin(index, flight.begin(index), params, state)
        sent[index] = current.received
        jobs = by_client(flight.arrivals(2))
        for job in jobs:
            received = sent[job.version]
            trained = {NAME: received[NAME] / 2 + GOES[job.client]}
            log = UpdateLog(loss=0.0, penalty=0.0, grad_norm=0.0, steps=1, rows=1, seconds=0.0)
            update = ClientUpdate(job.client, rows[job.client], trained, log)
            scale = staleness_weight(config.fedmllm.async_, flight.staleness(job))
            server.take_buffered(current, update, received, scale)
        params, state = server.step(current, params, state)
        found.append(float(params[NAME]))
        ages.append([flight.staleness(job) for job in jobs])
    return found, ages


def test_the_papers_step_by_hand() -> None:
    found, ages = trajectory(config_of(), {1: 5, 2: 5, 3: 5})
    assert ages == STALENESS
    assert found == pytest.approx(BY_HAND, abs=1e-6)


def test_constant_weights_by_hand() -> None:
    found, _ = trajectory(config_of("fedmllm.async.weight", "constant"), {1: 5, 2: 5, 3: 5})
    assert found == pytest.approx(CONSTANT, abs=1e-6)


def test_rows_weigh_beside_staleness_and_the_sum_is_divided_by_rows_alone() -> None:
    """Round 1 with 1, 1 and 3 rows: (1 * 0.25 + 3 * 4 / sqrt(2)) / 4 beyond 1.5."""
    found, _ = trajectory(config_of(), {1: 1, 2: 1, 3: 3})
    assert found[:2] == pytest.approx([1.5, 1.5 + (0.25 + 3 * 4 / 2**0.5) / 4], abs=1e-6)


def test_other_server_methods_step_along_the_same_mean() -> None:
    """FedAvgM, beta 0.5: m_1 = 1.5; m_2 = 0.75 + the mean of round 1, whose updates start from 1.5 and from 0."""
    words = ("federate.method", "fedavgm", "fedmllm.server.beta1", "0.5")
    found, _ = trajectory(config_of(*words), {1: 5, 2: 5, 3: 5})
    assert found[:2] == pytest.approx([1.5, 1.5 + 0.75 + (0.25 + 4 / 2**0.5) / 2], abs=1e-6)
