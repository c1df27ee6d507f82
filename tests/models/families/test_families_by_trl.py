"""Every family's twin by TRL's trainer: the lean loop's adapter, up to rounding."""

from __future__ import annotations

import pytest

pytest.importorskip("trl", reason="NOT RUN: trl is not installed")

import twins
from trl_updates import apart

from fs_fedmllm.config import LocalConfig, LoraConfig, ModelOptions
from fs_fedmllm.errors import ConfigError
from fs_fedmllm.models.encoding import Encoder
from fs_fedmllm.models.loader import load_mllm
from fs_fedmllm.rounds.trl_trainer import TrlTrainer


@pytest.mark.parametrize("name", list(twins.BUILDERS))
def test_a_twin_trains_to_the_same_adapter(name: str, twin, federation) -> None:
    options = ModelOptions(path=str(twin(name)), lora=LoraConfig(dropout=0.0))
    mllm = load_mllm(options)
    encoder = Encoder(mllm, federation.data.template, "original", None)
    rows = list(federation.data.dataset.test[:12])
    assert apart(mllm, encoder, rows, LocalConfig(eps=1e-2), lr=1e-3) < 1e-6


def test_a_model_with_a_forward_of_its_own_is_refused(twin, federation) -> None:
    mllm = load_mllm(ModelOptions(path=str(twin("minicpmv_legacy")), trust_remote_code=True))
    with pytest.raises(ConfigError, match=r"family minicpmv_legacy.*Use the backend lean"):
        TrlTrainer(mllm, Encoder(mllm, federation.data.template, "original", None), LocalConfig())
