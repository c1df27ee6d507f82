"""The adapter's names are PEFT's, and what is saved loads into plain PEFT with equal logits."""

import json

import pytest
import torch

from fs_fedmllm.errors import ModelError
from fs_fedmllm.models.export import adapter_bytes, read_adapter, write_adapter
from fs_fedmllm.models.loader import TINY, load_mllm


def test_names_are_pefts_own(federation) -> None:
    from peft import get_peft_model_state_dict

    assert set(federation.mllm.adapter.names) == set(get_peft_model_state_dict(federation.mllm.model))


def test_only_language_attention_is_trained(federation) -> None:
    names = federation.mllm.adapter.names
    assert all(".language_model.layers." in n and ".self_attn." in n for n in names)
    depth = federation.mllm.adapter.depth
    assert len(names) == depth * 4 * 2


def test_load_then_export_gives_the_same_bytes(federation) -> None:
    state = {n: torch.randn_like(t) for n, t in federation.initial_state().items()}
    federation.mllm.adapter.load(state)
    exported = federation.mllm.adapter.export()
    assert all(torch.equal(exported[n], state[n]) for n in state)


def test_initial_state_depends_on_the_seed_alone(federation) -> None:
    adapter = federation.mllm.adapter
    torch.manual_seed(1)
    first = adapter.initial_state(3)
    torch.manual_seed(2)
    again, other = adapter.initial_state(3), adapter.initial_state(4)
    assert all(torch.equal(first[n], again[n]) for n in first)
    assert any(not torch.equal(first[n], other[n]) for n in first)
    assert all(not first[n].any() for n in first if "lora_B" in n)


def test_loading_refuses_missing_tensors_and_wrong_shapes(federation) -> None:
    state = federation.initial_state()
    name = next(iter(state))
    with pytest.raises(ModelError, match="lacks"):
        federation.mllm.adapter.load({k: v for k, v in state.items() if k != name})
    with pytest.raises(ModelError, match="shape"):
        federation.mllm.adapter.load(state | {name: torch.zeros(1, 1)})


def test_a_saved_adapter_loads_into_plain_peft_with_equal_logits(federation, tmp_path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText

    generator = torch.Generator().manual_seed(0)
    state = {n: torch.randn(t.shape, generator=generator) * 0.05 for n, t in federation.initial_state().items()}
    write_adapter(tmp_path, federation.mllm, state)
    plain = PeftModel.from_pretrained(AutoModelForImageTextToText.from_pretrained(TINY), str(tmp_path)).eval()
    row = federation.encoder.encode([r for r in federation.data.dataset.test if r.text][:1])[0]
    ids = torch.tensor([federation.encoder.tokens("hello world")])
    federation.mllm.adapter.load(state)
    federation.mllm.set_training(False)
    with torch.no_grad():
        ours = federation.mllm.inner(input_ids=ids).logits
        theirs = plain(input_ids=ids).logits
    assert torch.equal(ours, theirs)
    assert row.prompt
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert "/" in config["base_model_name_or_path"] and not config["base_model_name_or_path"].startswith("/")


def test_reading_refuses_what_does_not_fit(federation, tmp_path) -> None:
    state = federation.initial_state()
    name = next(iter(state))
    file = tmp_path / "adapter_model.safetensors"
    with pytest.raises(ModelError, match="cannot be read"):
        read_adapter(file, state)
    file.write_bytes(b"\x80\x04pickle")
    with pytest.raises(ModelError, match="cannot be read"):
        read_adapter(file, state)
    file.write_bytes(adapter_bytes({k: v for k, v in state.items() if k != name}))
    with pytest.raises(ModelError, match="missing"):
        read_adapter(file, state)
    file.write_bytes(adapter_bytes(state | {"more": torch.zeros(1)}))
    with pytest.raises(ModelError, match="unknown"):
        read_adapter(file, state)
    file.write_bytes(adapter_bytes(state | {name: torch.full_like(state[name], float("nan"))}))
    with pytest.raises(ModelError, match="not finite"):
        read_adapter(file, state)
    file.write_bytes(adapter_bytes(state))
    assert all(torch.equal(read_adapter(tmp_path, state)[n], state[n]) for n in state)


def test_one_base_model_in_the_process(federation) -> None:
    options = federation.config.model.fedmllm
    assert load_mllm(options) is load_mllm(options) is federation.mllm


def test_an_expression_without_language_layers_is_refused() -> None:
    import dataclasses

    from fs_fedmllm.config import LoraConfig, ModelOptions

    options = ModelOptions(lora=LoraConfig(target=r".*no_such\.(\d+)\.layer"))
    with pytest.raises(ModelError, match="No language layer"):
        load_mllm(options)
    with pytest.raises(ModelError, match="valid regular expression"):
        load_mllm(dataclasses.replace(options, lora=LoraConfig(target="(")))


def test_a_payload_that_is_mostly_not_lora_is_told(federation) -> None:
    import dataclasses
    import warnings

    from fs_fedmllm.config import ModelOptions
    from fs_fedmllm.config.model import whole_modules
    from fs_fedmllm.errors import PayloadWarning

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        federation.mllm.adapter.warn_if_mostly_not_lora("")  # LoRA only
    options = dataclasses.replace(ModelOptions(), modules_to_save=["lm_head"])
    adapter = load_mllm(options).adapter
    head = sum(p.numel() for n, p in zip(adapter.names, adapter.parameters, strict=True) if "lora_" not in n)
    assert adapter.bytes - adapter.lora_bytes == 4 * head and adapter.lora_bytes == federation.mllm.adapter.bytes
    assert head > 0
    asked = whole_modules(ModelOptions(federated=["lora", "projector"]))
    told = rf"federated \[projector\] makes.*{4 * head:,} of {adapter.bytes:,} bytes"
    with pytest.warns(PayloadWarning, match=told) as caught:
        adapter.warn_if_mostly_not_lora(asked)
    both = ModelOptions(federated=["lora", "projector"], modules_to_save=["lm_head"])
    assert whole_modules(both) == "model.fedmllm.federated [projector] and model.fedmllm.modules_to_save [lm_head]"
    assert f"{4 * head / adapter.bytes:.1%}" in str(caught[0].message)
