"""Which federated tensors lie before the image meets the text: the family says so, not a list of names."""

from __future__ import annotations

import pytest
import torch

from fs_fedmllm.aggregators import build_aggregator
from fs_fedmllm.config import AggregationConfig
from fs_fedmllm.models.families import FAMILIES, family_of
from fs_fedmllm.models.families.base import Family

BEFORE = "base_model.model."
#: A module of the projector or resampler, and one of the language model, as their checkpoints call them.
PLACES = {
    "llava": ("model.multi_modal_projector.linear_1.weight", "model.language_model.embed_tokens.weight"),
    "smolvlm": ("model.connector.modality_projection.proj.weight", "model.text_model.embed_tokens.weight"),
    "qwen2_5_vl": ("model.visual.merger.mlp.0.weight", "model.language_model.layers.0.self_attn.q_proj.weight"),
    "minicpmv4_6": ("model.merger.mlp.linear_1.weight", "model.language_model.layers.0.mlp.down_proj.weight"),
    "minicpmv": ("resampler.kv_proj.weight", "llm.model.embed_tokens.weight"),
}


@pytest.mark.parametrize("kind", PLACES)
def test_the_family_knows_what_feeds_vision(kind) -> None:
    assert kind in FAMILIES
    family = family_of(kind)
    seen, read = PLACES[kind]
    assert family.feeds_vision(BEFORE + seen) and not family.feeds_vision(BEFORE + read)


def test_a_model_with_names_of_its_own() -> None:
    """Neither "vision" nor "projector" in any name, and language layers that are called otherwise."""
    family = Family("other", layers=r".*\.decoder\.blocks\.(\d+)")
    assert family.feeds_vision(BEFORE + "model.bridge.weight")
    assert not family.feeds_vision(BEFORE + "model.decoder.blocks.3.attention.q.lora_A.weight")
    none = {"both": 0, "image": 0, "text": 0, "neither": 0}
    presence = {1: none | {"both": 10}, 2: none | {"text": 30}}
    params = {name: torch.zeros(1) for name in ("model.bridge.weight", "model.decoder.blocks.3.q.lora_A.weight")}
    config = AggregationConfig(client_weights="balanced")
    rule = build_aggregator(config, params, presence, family.feeds_vision)
    rule.add(1, 10.0, {name: torch.ones(1) for name in params})
    rule.add(2, 30.0, {name: torch.zeros(1) for name in params})
    mean = rule.mean()
    # Client 2 has no image, so it has no say in the bridge.
    assert mean["model.bridge.weight"].item() == 1.0
    assert 0 < mean["model.decoder.blocks.3.q.lora_A.weight"].item() < 1
