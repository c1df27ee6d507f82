"""FFA-LoRA: only B is trained and federated."""

import torch

from fs_fedmllm.aggregators import RunningMean
from fs_fedmllm.aggregators.updates import weighted_mean
from fs_fedmllm.algorithms.factors import is_a
from fs_fedmllm.algorithms.frozen_a import without_a


def frozen_a_mean(updates):
    return weighted_mean([(client, weight, without_a(delta)) for client, weight, delta in updates])


NAMES = {
    "layers.0.q_proj.lora_A.weight": True,
    "layers.0.q_proj.lora_A.default.weight": True,
    "embed.lora_embedding_A": True,
    "layers.0.q_proj.lora_B.weight": False,
    "embed.lora_embedding_B": False,
    "projector.weight": False,
}


def test_names():
    assert {name: is_a(name) for name in NAMES} == NAMES


def test_a_never_moves_whatever_clients_send():
    updates = [(k, float(k), {name: torch.full((2,), float(k)) for name in NAMES}) for k in (1, 2)]
    delta = frozen_a_mean(updates)
    assert set(delta) == {name for name, frozen in NAMES.items() if not frozen}
    assert all(torch.equal(tensor, weighted_mean(updates)[name]) for name, tensor in delta.items())


def test_the_mask_and_the_running_mean_agree():
    mean = RunningMean({name: torch.zeros(2) for name in NAMES})
    updates = [(k, float(k), {name: torch.full((2,), float(k)) for name in NAMES}) for k in (1, 2)]
    for client, weight, update in updates:
        mean.add(client, weight, without_a(update))
    got, expected = mean.mean(), frozen_a_mean(updates)
    assert set(got) == set(expected)
    assert all(torch.equal(got[name], expected[name]) for name in got)
