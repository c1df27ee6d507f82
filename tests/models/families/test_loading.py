"""What a checkpoint needs before it is loaded: errors that say what is missing, torchvision, unknown model types."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fs_fedmllm.config import LoraConfig, ModelOptions, QuantizationConfig
from fs_fedmllm.errors import ConfigError, ModelError
from fs_fedmllm.models import families, precision
from fs_fedmllm.models.families.base import Family, _concatenate
from fs_fedmllm.models.loader import TINY, load_mllm
from fs_fedmllm.models.skeleton import skeleton

REPOSITORY = Path(__file__).resolve().parents[3]


def _edited(source: Path, folder: Path, **values) -> Path:
    shutil.copytree(source, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | values))
    return folder


def test_one_notice_of_bitsandbytes_is_silenced_and_nothing_else(caplog) -> None:
    """PEFT imports it for every run; what it says of a kernel that it would download concerns none of ours."""
    logger = logging.getLogger("bitsandbytes.backends.cpu.ops")
    notice = "Failed to load CPU gemm_4bit_forward from kernels-community"
    logger.warning(f"{notice}: %s. Please make sure...", ImportError("No module named 'kernels'"))
    logger.warning("Failed to load something else")
    logger.error("the native library is missing")
    assert [record.getMessage() for record in caplog.records] == [
        "Failed to load something else",
        "the native library is missing",
    ]
    found = importlib.util.find_spec("bitsandbytes")
    if found is not None:  # the words are still its own; read and not imported, for importing it is what is at stake
        assert found.origin is not None
        assert notice in (Path(found.origin).parent / "backends" / "cpu" / "ops.py").read_text()


def test_code_of_a_checkpoint_runs_only_when_asked(twin, tmp_path) -> None:
    folder = tmp_path / "trap"
    shutil.copytree(twin("minicpmv_legacy"), folder)
    for file in folder.glob("*.py"):
        file.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n" + file.read_text())
    with pytest.raises(ModelError, match=r"Python code of its own.*trust_remote_code: true"):
        load_mllm(ModelOptions(path=str(folder)))
    assert not (tmp_path / "ran").exists()
    load_mllm(ModelOptions(path=str(folder), trust_remote_code=True))
    assert (tmp_path / "ran").exists()


def test_a_model_type_that_nobody_knows_is_told(twin, tmp_path) -> None:
    folder = _edited(twin("llava"), tmp_path / "odd", model_type="no_such_type")
    with pytest.raises(ModelError, match=r"'no_such_type'.*known here.*smolvlm.*docs/extending.md"):
        load_mllm(ModelOptions(path=str(folder)))
    with pytest.raises(ModelError, match="there is no such folder"):
        load_mllm(ModelOptions(path=str(tmp_path / "nowhere")))


def test_a_type_without_a_family_takes_the_generic_path(twin, monkeypatch) -> None:
    folder = twin("internvl")
    monkeypatch.setattr(families, "FAMILIES", {})
    monkeypatch.setattr("fs_fedmllm.models.loader._LOADED", {})
    mllm = load_mllm(ModelOptions(path=str(folder)))
    assert mllm.family is families.GENERIC and set(mllm.adapter.layers) == {0, 1, 2, 3}
    with pytest.raises(ModelError, match=r"generic have lora, embeddings.*modules_to_save"):
        load_mllm(ModelOptions(path=str(folder), federated=["lora", "projector"]))
    monkeypatch.setattr(families, "GENERIC", Family("generic", layers=r"elsewhere\.(\d+)"))
    monkeypatch.setattr("fs_fedmllm.models.loader.family_of", lambda kind: families.GENERIC)
    with pytest.raises(ModelError, match=r"lists of layers are .*language_model\.layers.*add a family"):
        load_mllm(ModelOptions(path=str(folder), lora=LoraConfig(r=2)))


def test_a_missing_package_is_named(twin, monkeypatch) -> None:
    folder = twin("smolvlm")
    find = precision.importlib.util.find_spec
    gone = {"num2words", "flash_attn", "bitsandbytes"}
    monkeypatch.setattr(precision.importlib.util, "find_spec", lambda n, *a: None if n in gone else find(n, *a))
    monkeypatch.setattr("fs_fedmllm.models.loader._LOADED", {})
    options = ModelOptions(path=str(folder))
    with pytest.raises(ModelError, match="smolvlm need the package num2words"):
        load_mllm(options)
    with pytest.raises(ModelError, match=r"flash_attn is not installed.*sdpa"):
        load_mllm(dataclasses.replace(options, attention="flash_attention_2"))
    with pytest.raises(ModelError, match=r"not installed: pip install 'fs-fedmllm\[quant\]'"):
        load_mllm(dataclasses.replace(options, quantization=QuantizationConfig(type="nf4")))


def test_another_quantiser_is_refused(twin, tmp_path) -> None:
    folder = _edited(twin("llava"), tmp_path / "gptq", quantization_config={"quant_method": "gptq", "bits": 4})
    with pytest.raises(ModelError, match="quantised with gptq"):
        load_mllm(ModelOptions(path=str(folder)))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("model.fedmllm.attention", "flash_attention_2"), r"needs use_gpu: True"),
        (("model.fedmllm.device_map", "auto"), r"device_map auto spreads.*use_gpu: True"),
        (("model.fedmllm.federated", "[projector]"), r"must name lora"),
        (("model.fedmllm.peft", "lorra"), r"'lorra', which is not one of lora, .*lora"),
        (("model.fedmllm.peft", "loha", "model.fedmllm.quantization.type", "nf4"), r"loha needs a base that is not"),
    ],
)
def test_combinations_that_mean_nothing_are_refused(words, told, short_config) -> None:
    with pytest.raises(ConfigError, match=told):
        short_config("cross_i3t7", *words)


def test_pictures_in_different_numbers_of_pieces_are_padded() -> None:
    one, two = torch.ones(1, 1, 3), torch.ones(1, 2, 3)
    joined = _concatenate([one, two])
    assert joined.shape == (2, 2, 3) and joined[0, 1].sum() == 0 and joined.sum() == 9
    with pytest.raises(ModelError, match="different ranks"):
        _concatenate([one, one[0]])


# torchvision: what is installed is decided in a process of its own, because imports leave traces

FAKE = """
import torch
{body}
"""
SCRIPT = """
from fs_fedmllm.errors import ModelError
from fs_fedmllm.models.torchvision import repair
try:
    print("usable", repair())
except ModelError as error:
    print("told", error)
"""


def _with_torchvision(folder: Path, cuda: str, body: str) -> str:
    package = folder / "torchvision"
    package.mkdir()
    (package / "version.py").write_text(f"__version__ = '0.28.0'\ncuda: str | None = {cuda}\n")
    (package / "__init__.py").write_text(FAKE.format(body=body))
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True,
        env={"PYTHONPATH": f"{folder}:{REPOSITORY}", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    return done.stdout


@pytest.mark.skipif(torch.version.cuda is not None, reason="needs a CPU build of torch")
def test_a_gpu_torchvision_beside_a_cpu_torch_is_made_importable(tmp_path) -> None:
    """It registers a fake kernel of an operator that only its compiled part would declare."""
    body = '@torch.library.register_fake("torchvision::nms")\ndef nms(dets, scores, threshold):\n    return scores'
    assert _with_torchvision(tmp_path, "'13.0'", body).strip() == "usable True"


def test_a_torchvision_that_cannot_be_imported_is_told(tmp_path) -> None:
    told = _with_torchvision(tmp_path, "None", 'raise RuntimeError("compiled for another torch")')
    assert told.startswith("told torchvision is installed") and "compiled for another torch" in told
    assert "pip uninstall torchvision" in told


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *(
            (name, "[]")
            for name in ("config.json", "processor_config.json", "tokenizer.json", "tokenizer_config.json")
        ),
        ("generation_config.json", "[1]"),
        ("config.json", {"hidden_size": -4}),
        ("config.json", {"num_attention_heads": 7}),
        ("config.json", {"hidden_size": "96"}),
    ],
)
def test_a_damaged_checkpoint_is_named_in_one_paragraph(name, text, tmp_path) -> None:
    folder = tmp_path / "base"
    shutil.copytree(TINY, folder)
    if isinstance(text, dict):
        raw = json.loads((folder / name).read_text())
        raw["text_config"] |= text
        text = json.dumps(raw)
    (folder / name).write_text(text)
    for load in (skeleton, load_mllm):
        with pytest.raises(ModelError) as caught:
            load(ModelOptions(path=str(folder)))
        assert str(folder) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{% if %}", "TemplateSyntaxError"),
        ("{{ foo.bar }}", "'foo' is undefined"),
        ("{{ raise_exception('no system turn') }}", "no system turn"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{{ ''.__class__.__mro__ }}", "SecurityError"),
        ("{% include '/etc/hostname' %}", "no loader"),
        ("{{ 'a' * 10**6 }}", "makes 1,000,000 characters of a row"),
        ("", "does not have a chat template"),
    ],
)
def test_a_fault_of_a_chat_template_is_told(template, said, tmp_path) -> None:
    folder = tmp_path / "base"
    shutil.copytree(TINY, folder)
    (folder / "chat_template.jinja").write_text(template)
    mllm = skeleton(ModelOptions(path=str(folder)))
    with pytest.raises(ModelError) as caught:
        mllm.family.chat(mllm.processor, "what is it", image=True)
    assert said in str(caught.value) and "Correct its chat_template.jinja" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["tiny", "minicpmv_legacy"])
def test_weights_that_are_not_there_are_not_drawn_at_random(name, twin, tmp_path) -> None:
    folder = tmp_path / "base"
    shutil.copytree(TINY if name == "tiny" else twin(name), folder)
    state = load_file(folder / "model.safetensors")
    lost = next(name for name in state if "layers.1." in name and "norm" in name)
    save_file({name: state[name] for name in state if name != lost}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks 1 weights of its model, the first '.*layers\.1\..*norm.*'") as caught:
        load_mllm(ModelOptions(path=str(folder), trust_remote_code=name != "tiny"))
    assert str(folder) in str(caught.value)
