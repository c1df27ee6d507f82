"""``fedmllm.train.backend: trl`` ends with the lean loop's adapter, up to rounding."""

from __future__ import annotations

import pytest

pytest.importorskip("trl", reason="NOT RUN: trl is not installed")

import random

import numpy as np
import torch
import trl_updates
from trl_updates import apart, two_rounds

from fs_fedmllm.algorithms.client import ClientHalf
from fs_fedmllm.config import LocalConfig, LoraConfig, ModelOptions
from fs_fedmllm.errors import ConfigError
from fs_fedmllm.models.encoding import Encoder
from fs_fedmllm.models.loader import load_mllm
from fs_fedmllm.rounds.lean_trainer import LeanTrainer
from fs_fedmllm.rounds.sft_arguments import OWNED, sft_arguments
from fs_fedmllm.rounds.trainer import UpdatePlan
from fs_fedmllm.rounds.trl_trainer import TrlTrainer

#: Adam divides by the gradients' size and makes rounding of the smallest as large as a step; with this it does not.
PLAIN = {"eps": 1.0e-2}


@pytest.fixture(scope="module")
def tiny(federation):
    mllm = load_mllm(ModelOptions(lora=LoraConfig(dropout=0.0)))
    return mllm, Encoder(mllm, federation.data.template, "original", None)


@pytest.fixture(scope="module")
def rows(federation):
    return list(federation.data.dataset.test[:12])


def test_the_adapter_is_the_lean_loops(tiny, rows) -> None:
    assert apart(*tiny, rows, LocalConfig(), lr=2.0e-5) < 1e-6  # the presets' rate


@pytest.mark.parametrize("micro", [0, 3])
@pytest.mark.parametrize("inner", ["constant", "cosine"])
def test_so_it_is_in_small_passes_and_along_a_cosine(tiny, rows, micro: int, inner: str) -> None:
    assert apart(*tiny, rows, LocalConfig(micro_batch_size=micro, **PLAIN), lr=1.0e-3, lr_inner=inner) < 1e-7


def test_dropout_draws_the_same_masks(federation, rows) -> None:
    mllm = load_mllm(ModelOptions(lora=LoraConfig(dropout=0.3)))
    encoder = Encoder(mllm, federation.data.template, "original", None)
    assert apart(mllm, encoder, rows, LocalConfig(**PLAIN), lr=1.0e-3) < 1e-7


def test_without_the_penalty_it_would_be_told(tiny, rows, monkeypatch: pytest.MonkeyPatch) -> None:
    from fs_fedmllm.sft.trainer import FedMLLMTrainer, SFTTrainer

    monkeypatch.setattr(FedMLLMTrainer, "compute_loss", SFTTrainer.compute_loss)
    assert apart(*tiny, rows, LocalConfig(**PLAIN), lr=1.0e-3) > 1e-5


class Correcting(ClientHalf):
    """As SCAFFOLD and FedDyn do: something is added to the gradients."""

    corrects = True

    def correct(self, parameters, anchors, step, steps):
        for parameter, anchor in zip(parameters, anchors, strict=True):
            parameter.grad += 0.5 * (step + 1) * torch.ones_like(anchor)
        return torch.tensor(3.0)


def test_an_algorithm_corrects_gradients_before_they_are_clipped(tiny, rows) -> None:
    mllm, encoder = tiny
    encoded = encoder.encode(rows)
    plan = UpdatePlan(batches=[[0, 1], [2, 3]], lr=1e-3, halves=[Correcting()])
    ends, logs = [], []
    for trainer in (
        LeanTrainer(mllm, encoder, LocalConfig(**PLAIN)),
        TrlTrainer(mllm, encoder, LocalConfig(**PLAIN)),
    ):
        trained, log = trainer.fit(mllm.adapter.initial_state(5), encoded, plan)
        logs.append(log)
        ends.append(trained)
    assert trl_updates.distance(*ends) < 1e-7
    assert logs[0].penalty == logs[1].penalty == 3.0
    assert logs[0].loss == pytest.approx(logs[1].loss, abs=1e-5)
    assert logs[0].grad_norm == pytest.approx(logs[1].grad_norm, rel=1e-5)


def test_nothing_is_left_behind(tiny, rows) -> None:
    """Generators, the model's forward, gradients: as before; another trainer in between does not matter."""
    mllm, encoder = tiny
    encoded = encoder.encode(rows)
    forward, trainer = mllm.inner.forward, TrlTrainer(mllm, encoder, LocalConfig())
    before = (random.getstate(), np.random.get_state()[1].tolist(), torch.random.get_rng_state())
    first = two_rounds(mllm, trainer, encoded, 1e-3)
    after = (random.getstate(), np.random.get_state()[1].tolist(), torch.random.get_rng_state())
    assert before[:2] == after[:2] and torch.equal(before[2], after[2])
    assert mllm.inner.forward == forward and not mllm.inner.training
    assert all(parameter.grad is None for parameter in mllm.adapter.parameters)
    LeanTrainer(mllm, encoder, LocalConfig())  # makes TrainingArguments, which resets what accelerate knows
    second = two_rounds(mllm, trainer, encoded, 1e-3)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("name", ["learning_rate", "optim", "max_length", "push_to_hub", "packing"])
def test_what_the_federation_sets_is_refused_by_name(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"fedmllm.train.sft.{name} is the federation's: set {OWNED[name]}"):
        sft_arguments(LocalConfig(sft={name: 1}), use_cpu=True)


def test_what_sft_config_does_not_have_is_refused() -> None:
    with pytest.raises(ConfigError, match="no such field"):
        sft_arguments(LocalConfig(sft={"learning_rat": 1}), use_cpu=True)
    with pytest.raises(ConfigError, match=r"fedmllm.train.sft: now and then is not a valid"):
        sft_arguments(LocalConfig(sft={"logging_strategy": "now and then"}), use_cpu=True)


def test_a_field_of_sft_config_is_in_force(tiny, rows) -> None:
    mllm, encoder = tiny
    encoded = encoder.encode(rows)
    ends = []
    for sft in ({}, {"neftune_noise_alpha": 20.0}):
        trainer, plan = TrlTrainer(mllm, encoder, LocalConfig(sft=sft)), UpdatePlan(batches=[[0, 1]], lr=1e-3)
        ends.append(trainer.fit(mllm.adapter.initial_state(5), encoded, plan)[0])
    assert trl_updates.distance(*ends) > 1e-6


def test_the_switches_for_missing_modalities_in_a_run(short_config) -> None:
    """Stand-ins, label prior, draw and weights: the same clients and decisions, the same adapter up to rounding."""
    from safetensors.torch import load_file

    from fs_fedmllm.runs.simulation import run

    words = ("fedmllm.label_prior", 1, "fedmllm.sampler", "modality", "fedmllm.aggregation.client_weights", "balanced",
             "fedmllm.stand_ins.use", "force", "fedmllm.stand_ins.guard", "none", "fedmllm.train.eps", 1.0e-2,
             "fedmllm.train.micro_batch_size", 3)  # fmt: skip
    made = {}
    for backend in ("lean", "trl"):
        results, folder = run(short_config("cross_i3t7", *words, "fedmllm.train.backend", backend, "expname", backend))
        made[backend] = results, load_file(folder.path / "adapter" / "adapter_model.safetensors")
    (lean, ours), (trl, theirs) = made["lean"], made["trl"]
    assert lean["participants"] == trl["participants"] and lean["stand_ins"] == trl["stand_ins"]
    assert max(float((ours[name] - theirs[name]).abs().max()) for name in ours) < 1e-5
