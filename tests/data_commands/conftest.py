"""Your-own-data input that the tests write, and the command line."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


@pytest.fixture
def real_data() -> Path:
    folder = os.environ.get("FS_FEDMLLM_DATA")
    if not folder:
        pytest.skip("needs the real data sets: set FS_FEDMLLM_DATA to their folder")
    return Path(folder)


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Run a command; its exit code, and what it printed."""

    def call(*words: object) -> tuple[int, str]:
        from fs_fedmllm.cli import main

        code = main([str(word) for word in words])
        said = capsys.readouterr()
        return code, said.out + said.err

    return call


@pytest.fixture
def own_vqa(tmp_path: Path) -> Path:
    """Questions on small pictures, and questions without one; the folder of train.jsonl and test.jsonl."""
    from PIL import Image

    root = tmp_path / "own"
    (root / "img").mkdir(parents=True)
    for name, colour in (("red", (200, 20, 20)), ("blue", (20, 20, 200))):
        for i in range(3):
            Image.new("RGB", (24 + i, 24), colour).save(root / f"img/{name}{i}.png")
            Image.new("RGB", (24, 25 + i), colour).save(root / f"img/{name}{i}_test.png")

    def row(i: int, pictured: bool, of: str = "") -> dict[str, Any]:
        name = "red" if i % 2 else "blue"
        if not pictured:
            return {"id": f"t{i}", "question": f"what is {i} plus one?", "answer": str(i + 1), "site": f"s{i % 4}"}
        closed = i % 3 > 0
        question, answer = ("is it red?", "yes" if i % 2 else "no") if closed else ("which colour is it?", name)
        image = f"img/{name}{i % 3}{of}.png"
        return {"id": f"i{i}", "image": image, "question": question, "answer": answer, "site": "s0"}

    def write(name: str, rows: list[dict[str, Any]]) -> None:
        (root / name).write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")

    write("train.jsonl", [row(i, pictured=i % 2 == 0 or i % 5 == 0) for i in range(60)])
    write("test.jsonl", [row(i, pictured=True, of="_test") for i in range(12)])
    return root


@pytest.fixture
def own_config(tmp_path: Path, own_vqa: Path) -> Callable[..., Path]:
    """A short configuration for ``own_vqa``: ``own_config("cross", image_clients=2, text_clients=2)``."""

    def make(scenario: str = "cross", **args: Any) -> Path:
        raw = yaml.safe_load((CONFIGS / "cross_i3t7.yaml").read_text())
        raw["data"] = {
            "type": "own",
            "root": str(own_vqa),
            "splitter": f"fedmllm_{scenario}",
            "splitter_args": [args or {"image_clients": 2, "text_clients": 2}],
        }
        raw["federate"] |= {"client_num": 4, "sample_client_num": 2, "total_round_num": 2}
        raw["train"]["local_update_steps"] = 2
        raw["eval"] = {"freq": 2, "best_res_update_round_wise_key": "test_acc"}
        raw["fedmllm"] = {"data": {"template": "medical"}, "train": {"batch_size": 4}}
        raw["outdir"] = str(tmp_path / "exp")
        path = tmp_path / f"own_{scenario}.yaml"
        path.write_text(yaml.safe_dump(raw), encoding="utf-8")
        return path

    return make
