"""A trainer is made without anybody beside it noticing."""

import random

import numpy as np
import torch

from fs_fedmllm.config import LocalConfig, ModelOptions
from fs_fedmllm.models.loader import load_mllm
from fs_fedmllm.rounds.lean_trainer import LeanTrainer


def _draw() -> tuple[float, float, float]:
    return random.random(), float(np.random.random()), float(torch.rand(()))


def test_the_global_generators_go_on_where_they_were() -> None:
    mllm = load_mllm(ModelOptions())
    drawn = []
    for makes in (False, True):
        random.seed(5)
        np.random.seed(5)
        torch.manual_seed(5)
        _draw()
        if makes:
            LeanTrainer(mllm, None, LocalConfig())  # type: ignore[arg-type]
        drawn.append(_draw())
    assert drawn[0] == drawn[1]
