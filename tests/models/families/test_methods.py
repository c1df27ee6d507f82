"""PEFT's methods, precisions and choices of what is federated, each through a whole federated run."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from fs_fedmllm import config as schema
from fs_fedmllm.algorithms.proximal import layer_mask
from fs_fedmllm.config.precision import PEFT_METHODS, REFUSED_METHODS
from fs_fedmllm.errors import ConfigError, ModelError
from fs_fedmllm.models.encoding import Encoder
from fs_fedmllm.models.export import read_adapter
from fs_fedmllm.models.loader import load_mllm, read_config
from fs_fedmllm.models.torchvision import images_without_torchvision
from fs_fedmllm.rounds.federation import Federation
from fs_fedmllm.runs.simulation import run
from fs_fedmllm.scenarios.federated_data import prepare_data

#: One round of two clients with four steps each.
RUN = (
    *("federate.client_num", 2, "federate.sample_client_num", 2, "federate.total_round_num", 1),
    *("train.local_update_steps", 4, "fedmllm.eval.limit", 4, "eval.freq", 1, "fedmllm.train.warmup_ratio", 0.0),
    *("fedmllm.regularizer.type", "adaptive", "fedmllm.regularizer.skip_layers", 1, "model.fedmllm.lora.dropout", 0.0),
)


def _finished(config) -> tuple[Federation, dict, dict, object]:
    """A run's federation, its first and last adapter, and its folder; the loss has fallen on the clients' rows."""
    results, written = run(config)
    assert results["refused"] == []
    federation = Federation.build(config, prepare_data(config))
    start = federation.initial_state()
    end = read_adapter(written.path / "adapter", start)
    rows = [row for rows in federation.data.clients.values() for row in rows[:6]]
    losses = []
    for state in (start, end):
        federation.mllm.adapter.load(state)
        federation.mllm.set_training(False)
        batch = federation.encoder.collate(federation.encoder.encode(rows), completions=True)
        with torch.no_grad():
            losses.append(float(batch.loss_sum(federation.mllm.last_logits(batch.inputs, batch.labels.shape[1]))))
    assert losses[1] < losses[0]
    return federation, start, end, written


def _logits(federation: Federation, model=None, *, pixels: bool = True) -> torch.Tensor:
    """Of a mixed batch, from the federation's live model or from another one of the same family."""
    both, text, image = federation.data.dataset.test[:3]
    rows = [both, text.showing(image=False, text=True), image.showing(image=True, text=False)]
    mllm = federation.mllm
    encoder = Encoder(mllm, federation.data.template, "original", None) if pixels else federation.encoder
    batch = encoder.collate(encoder.encode(rows), completions=True)
    mllm.set_training(False)
    with torch.no_grad():
        if model is None:
            return mllm.last_logits(batch.inputs, 4)
        return model(**batch.inputs, use_cache=False).logits[:, -4:]


def _reloaded(federation: Federation, written, arguments):
    """The saved adapter on a fresh base, by PEFT itself."""
    from peft import PeftModel

    path = federation.config.model.fedmllm.path
    with images_without_torchvision():
        _, fresh = federation.mllm.family.load(path, read_config(path), arguments)
    return PeftModel.from_pretrained(fresh, str(written.path / "adapter")).eval()


@pytest.mark.parametrize("method", PEFT_METHODS)
def test_a_method_through_a_federated_run(method, twin, short_config) -> None:
    rate = {"ia3": 0.1, "vera": 0.1}.get(method, 0.02)
    config = short_config(
        "missing_b50", *RUN, "train.optimizer.lr", rate, "model.fedmllm.path", twin("smolvlm"),
        "model.fedmllm.peft", method,
    )  # fmt: skip
    federation, start, end, written = _finished(config)
    adapter = federation.mllm.adapter
    # Every tensor has its language layer, so the regulariser's mask covers the middle ones whatever the method.
    assert set(adapter.layers) == {0, 1, 2, 3}
    assert {adapter.layers[i] for i in layer_mask(adapter.layers, adapter.depth, 1)} == {1, 2}
    # A fresh adapter changes nothing, whatever its seed, and depends on the seed alone.
    federation.mllm.adapter.load(start)
    fresh = _logits(federation)
    with federation.mllm.model.disable_adapter():
        torch.testing.assert_close(fresh, _logits(federation), rtol=0, atol=1e-5)
    again, other = adapter.initial_state(0), adapter.initial_state(1)
    assert all(torch.equal(start[name], again[name]) for name in start)
    drawn = method not in ("ia3", "vera")  # these start from constants
    assert any(not torch.equal(start[name], other[name]) for name in start) == drawn
    assert set(end) == set(adapter.names) and list(end) == list(adapter.names)
    federation.mllm.adapter.load(end)
    plain = _reloaded(federation, written, {"trust_remote_code": False, "dtype": torch.float32})
    ours = _logits(federation)
    torch.testing.assert_close(_logits(federation, plain.base_model.model), ours, rtol=0, atol=1e-5)
    assert not torch.allclose(ours, fresh, atol=1e-4)
    merged = plain.merge_and_unload()
    torch.testing.assert_close(_logits(federation, merged), ours, rtol=0, atol=1e-4)


@pytest.mark.parametrize("method", sorted(REFUSED_METHODS))
def test_a_method_that_does_not_average_is_refused_with_the_reason(method, short_config) -> None:
    with pytest.raises(ConfigError, match=rf"peft is '{method}'.*cannot be federated: .{{20}}"):
        short_config("cross_i3t7", "model.fedmllm.peft", method)


def test_scales_are_not_decayed(twin, short_config) -> None:
    config = short_config("cross_i3t7", "model.fedmllm.path", twin("smolvlm"), "model.fedmllm.peft", "dora")
    federation = Federation.build(config, prepare_data(config))
    for name, decays in zip(federation.mllm.adapter.names, federation.trainer._decays, strict=True):
        assert decays == ("magnitude" not in name)


QUANTISED = {
    "int8": (),
    "nf4": ("model.fedmllm.quantization.double", True, "model.fedmllm.quantization.compute_dtype", "bfloat16"),
    "fp4": ("model.fedmllm.quantization.double", False),
}


@pytest.mark.parametrize("kind", sorted(QUANTISED))
def test_a_quantised_base_through_a_federated_run(kind, twin, short_config, tmp_path) -> None:
    bitsandbytes = pytest.importorskip("bitsandbytes")
    config = short_config(
        "missing_b50", *RUN, "train.optimizer.lr", 0.02, "model.fedmllm.path", twin("llava_wide"),
        "model.fedmllm.quantization.type", kind, *QUANTISED[kind],
    )  # fmt: skip
    federation, _, end, written = _finished(config)
    mllm = federation.mllm
    layer = bitsandbytes.nn.Linear8bitLt if kind == "int8" else bitsandbytes.nn.Linear4bit
    quantised = {name for name, module in mllm.inner.named_modules() if isinstance(module, layer)}
    assert len(quantised) == 4 * 7 and all(".language_model.layers." in name for name in quantised)
    assert all(tensor.dtype == torch.float32 for tensor in mllm.adapter.parameters)
    # The vision tower is as it was, so cached features and pixels agree on a quantised base too.
    mllm.adapter.load(end)
    ours = _logits(federation)
    assert federation.encoder.vision is not None
    torch.testing.assert_close(_logits(federation, pixels=False), ours, rtol=0, atol=1e-4)
    # A checkpoint that is saved quantised says so itself, and the adapter fits it with the same logits.
    saved = tmp_path / "quantised"
    plain = load_mllm(dataclasses.replace(config.model.fedmllm, init_seed=9))
    assert plain is mllm  # the seed of the adapter makes no other base
    from fs_fedmllm.models.precision import precision_arguments, quantization_of

    raw = read_config(config.model.fedmllm.path)
    arguments = precision_arguments(config.model.fedmllm, raw, mllm.family, mllm.device)
    with images_without_torchvision():
        processor, base = mllm.family.load(config.model.fedmllm.path, raw, {**arguments, "trust_remote_code": False})
    base.save_pretrained(saved)
    processor.save_pretrained(saved)
    assert quantization_of(read_config(str(saved))) == kind
    none = dataclasses.replace(config.model.fedmllm, path=str(saved), quantization=schema.QuantizationConfig())
    prequantised = load_mllm(none)
    assert sum(isinstance(module, layer) for module in prequantised.inner.modules()) == len(quantised)
    prequantised.adapter.load(end)
    prequantised.set_training(False)
    torch.testing.assert_close(_logits(federation, prequantised.inner), ours, rtol=0, atol=1e-5)
    wrong = "fp4" if kind != "fp4" else "int8"
    with pytest.raises(ModelError, match=f"quantised to {kind} already"):
        load_mllm(dataclasses.replace(none, quantization=schema.QuantizationConfig(type=wrong)))
    # Merging rounds once more: the outcome is near, not equal.
    merged = _reloaded(federation, written, {**arguments, "trust_remote_code": False}).merge_and_unload()
    apart = (_logits(federation, merged) - ours).norm() / ours.norm()
    assert apart < 0.2


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_half_precision_base_through_a_federated_run(dtype, twin, short_config) -> None:
    config = short_config(
        "missing_b50", *RUN, "train.optimizer.lr", 0.02, "model.fedmllm.path", twin("internvl"),
        "model.fedmllm.dtype", dtype, "model.fedmllm.attention", "eager",
    )  # fmt: skip
    federation, _, end, written = _finished(config)
    mllm = federation.mllm
    assert mllm.inner.dtype == getattr(torch, dtype) and mllm.inner.config._attn_implementation == "eager"
    assert all(tensor.dtype == torch.float32 for tensor in (*mllm.adapter.parameters, *end.values()))
    mllm.adapter.load(end)
    arguments = {"trust_remote_code": False, "dtype": getattr(torch, dtype), "attn_implementation": "eager"}
    plain = _reloaded(federation, written, arguments)
    torch.testing.assert_close(_logits(federation, plain.base_model.model), _logits(federation))


@pytest.mark.parametrize(
    ("name", "groups", "cached"),
    [
        ("qwen3_vl", ["projector"], False),
        ("smolvlm", ["projector", "embeddings"], False),
        ("llava", ["embeddings"], True),
        ("minicpmv_legacy", ["resampler"], False),
    ],
)
def test_what_is_federated_is_a_choice(name, groups, cached, twin, short_config, recwarn) -> None:
    config = short_config(
        "missing_b50", *RUN, "train.optimizer.lr", 0.01, "model.fedmllm.path", twin(name),
        "model.fedmllm.federated", json.dumps(["lora", *groups]),
        "model.fedmllm.trust_remote_code", name == "minicpmv_legacy",
    )  # fmt: skip
    federation, start, end, written = _finished(config)
    mllm = federation.mllm
    sizes = mllm.federated_bytes()
    assert list(sizes) == ["lora", *groups] and sum(sizes.values()) == mllm.adapter.bytes and all(sizes.values())
    # The cache holds outputs of the vision tower and the projector: it is off when one of them is trained.
    assert (federation.encoder.vision is not None) == cached
    whole = [tensor for tensor, layer in zip(mllm.adapter.names, mllm.adapter.layers, strict=True) if layer is None]
    assert all(not torch.equal(start[tensor], end[tensor]) for tensor in whole if "bias" not in tensor)
    # A fresh start is the base's own values, even after training in this process.
    assert all(torch.equal(federation.initial_state()[tensor], start[tensor]) for tensor in start)
    mllm.adapter.load(end)
    plain = _reloaded(federation, written, {"trust_remote_code": name == "minicpmv_legacy", "dtype": torch.float32})
    torch.testing.assert_close(_logits(federation, plain.base_model.model), _logits(federation), rtol=0, atol=1e-5)


def test_a_group_that_the_family_does_not_have_is_refused(twin) -> None:
    options = schema.ModelOptions(path=str(twin("llava")), federated=["lora", "resampler"])
    with pytest.raises(ModelError, match=r"'resampler'.*llava have lora, projector, embeddings"):
        load_mllm(options)
