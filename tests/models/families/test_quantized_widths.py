"""4-bit layers of any width, on a processor that bitsandbytes has a kernel of its own for and on others."""

from __future__ import annotations

import gc

import pytest
import torch

from fs_fedmllm.config import LoraConfig, ModelOptions, QuantizationConfig
from fs_fedmllm.models.loader import load_mllm
from fs_fedmllm.rounds.federation import Federation
from fs_fedmllm.scenarios.federated_data import prepare_data


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("double", [False, True])
def test_the_embedded_model_in_four_bits_on_every_processor(kind, double, monkeypatch, short_config) -> None:
    """Width 96 is no multiple of the blocks' 64: with AVX512-BF16 the first evaluation ended in a shape error, and
    with a width that fits, training after it had no gradient."""
    modules = pytest.importorskip("bitsandbytes.nn.modules")
    options = ModelOptions(
        quantization=QuantizationConfig(type=kind, double=double), lora=LoraConfig(r=2, dropout=0.0), init_seed=3
    )
    seen = []
    for kernel in (False, True):
        monkeypatch.setattr(modules, "has_avx512bf16", lambda kernel=kernel: kernel)
        monkeypatch.setattr("fs_fedmllm.models.loader._LOADED", {})
        mllm = load_mllm(options)
        layers = [module for module in mllm.inner.modules() if isinstance(module, modules.Linear4bit)]
        assert len(layers) == 12 * 7
        ids = torch.arange(8, 24)[None]
        mask = torch.ones_like(ids)
        with torch.no_grad():
            before = mllm.last_logits({"input_ids": ids, "attention_mask": mask}, 3)
        assert not any(getattr(layer.weight.quant_state, "packing_format_for_cpu", False) for layer in layers)
        mllm.set_training(True)
        mllm.last_logits({"input_ids": ids, "attention_mask": mask}, 3).square().mean().backward()
        assert all(p.grad is not None for p in mllm.adapter.parameters)
        gradients = [p.grad.clone() for p in mllm.adapter.parameters]
        assert any(bool(g.any()) for g in gradients)
        mllm.set_training(False)
        seen.append((before, gradients))
    assert torch.equal(seen[0][0], seen[1][0])
    assert all(torch.equal(a, b) for a, b in zip(seen[0][1], seen[1][1], strict=True))


def test_a_quantised_run_trains_after_its_first_evaluation(monkeypatch, short_config) -> None:
    modules = pytest.importorskip("bitsandbytes.nn.modules")
    monkeypatch.setattr(modules, "has_avx512bf16", lambda: True)
    monkeypatch.setattr("fs_fedmllm.models.loader._LOADED", {})
    config = short_config("cross_i3t7", "model.fedmllm.quantization.type", "nf4", "fedmllm.eval.limit", 4)
    federation = Federation.build(config, prepare_data(config))
    start = federation.initial_state()
    federation.evaluate(start, slices=False)
    update = federation.clients.update(1, 0, start)
    assert update.log.grad_norm > 0 and any(not torch.equal(start[name], update.state[name]) for name in start)


def test_the_base_is_held_in_four_bits_once_for_all_clients(monkeypatch, short_config) -> None:
    modules = pytest.importorskip("bitsandbytes.nn.modules")
    monkeypatch.setattr("fs_fedmllm.models.loader._LOADED", {})

    def alive() -> int:
        gc.collect()
        return sum(issubclass(type(thing), modules.Linear4bit) for thing in gc.get_objects())

    before = alive()
    config = short_config("cross_i3t7", "model.fedmllm.quantization.type", "nf4", "fedmllm.eval.limit", 4)
    federation = Federation.build(config, prepare_data(config))
    assert alive() - before == 12 * 7
    start = federation.initial_state()
    updates = [federation.clients.update(client, 0, start) for client in (1, 2, 5)]
    assert Federation.build(config, prepare_data(config)).mllm is federation.mllm
    assert alive() - before == 12 * 7
    # What a client gives back is as in any precision: float32, and of the adapter alone.
    assert {tensor.dtype for update in updates for tensor in update.state.values()} == {torch.float32}
