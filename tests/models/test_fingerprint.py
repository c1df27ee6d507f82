"""The fingerprint of a base's weights: alike for the same tensors, whatever the files look like."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fs_fedmllm.config import ModelOptions
from fs_fedmllm.models import fingerprint
from fs_fedmllm.models.fingerprint import base_fingerprint, processor_files
from fs_fedmllm.models.loader import TINY


def of(folder: Path) -> str:
    fingerprint._fingerprint.cache_clear()
    return base_fingerprint(replace(ModelOptions(), path=str(folder)))


@pytest.fixture
def tensors() -> dict[str, torch.Tensor]:
    return load_file(TINY / "model.safetensors")


def shards(folder: Path, tensors: dict[str, torch.Tensor]) -> Path:
    """Two files and an index, names in another order."""
    folder.mkdir()
    names = sorted(tensors, reverse=True)
    weight_map = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(names)}
    for file in set(weight_map.values()):
        save_file({name: tensors[name] for name in names if weight_map[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


def test_shards_folders_precision_and_spare_copies_make_no_difference(tmp_path: Path, tensors) -> None:
    ours = base_fingerprint(ModelOptions())
    assert len(ours) == 64
    folder = shards(tmp_path / "sharded", tensors)
    assert of(folder) == ours
    save_file({"spare": torch.zeros(3)}, folder / "consolidated.safetensors")
    assert of(folder) == ours
    assert base_fingerprint(replace(ModelOptions(), dtype="bfloat16")) == ours


@pytest.mark.parametrize("place", [0, 0.5, 1])
def test_other_weights_differ(tmp_path: Path, tensors, place: float) -> None:
    """One number of the largest tensor, at either end or in its middle; and its name, dtype and shape."""
    name = max(tensors, key=lambda key: tensors[key].numel())
    largest = tensors[name]
    assert largest.numel() * largest.element_size() > 3 * fingerprint.SAMPLE
    found = {base_fingerprint(ModelOptions())}
    changed = largest.clone().reshape(-1)
    changed[int(place * (changed.numel() - 1))] += 1
    for number, (key, value) in enumerate(
        ((name, changed.reshape(largest.shape)), (name, largest.bfloat16()), (name, largest.t().contiguous()),
         (f"{name}x", largest))
    ):  # fmt: skip
        folder = tmp_path / str(number)
        folder.mkdir()
        save_file({n: t for n, t in tensors.items() if n != name} | {key: value}, folder / "model.safetensors")
        found.add(of(folder))
    assert len(found) == 5


def test_without_safetensors_both_ends_of_the_files_count(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80" * 3_000_000)
    first = of(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80" * 2_999_999 + b"\x81")
    assert len(first) == 64 and of(tmp_path) != first
    assert of(tmp_path / "nobody" / "knows") == ""


def test_a_processor_that_was_saved_again_is_the_same_and_one_that_writes_other_tokens_is_not(tmp_path: Path) -> None:
    from transformers import AutoProcessor

    def files(folder: Path) -> dict[str, str]:
        return processor_files(replace(ModelOptions(), path=str(folder)))

    ours, again = processor_files(ModelOptions()), tmp_path / "again"
    AutoProcessor.from_pretrained(TINY).save_pretrained(again)
    assert (again / "tokenizer_config.json").read_bytes() != (TINY / "tokenizer_config.json").read_bytes()
    template = (again / "chat_template.jinja").read_bytes()
    (again / "chat_template.jinja").write_bytes(template.replace(b"\n", b"\r\n"))
    config = json.loads((again / "tokenizer.json").read_text())
    (again / "tokenizer.json").write_text(json.dumps(dict(reversed(config.items())), indent=1))
    assert files(again) == ours
    for name, change in (
        ("chat_template.jinja", lambda text: text + " "),
        ("tokenizer_config.json", lambda text: json.dumps({**json.loads(text), "eos_token": "<image>"})),
        ("tokenizer.json", lambda text: json.dumps({**json.loads(text), "normalizer": {"type": "Lowercase"}})),
        ("processor_config.json", lambda text: "{"),
    ):
        other = shutil.copytree(again, tmp_path / name)
        (other / name).write_text(change((other / name).read_text()))
        found = files(other)
        assert {key for key in ours if found[key] != ours[key]} == {name}
