"""What can be done with a finished adapter: compare, merge, predict."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from short_runs import CONFIGS, SHORT

from fs_fedmllm import config as schema
from fs_fedmllm.cli import main
from fs_fedmllm.config import ModelOptions
from fs_fedmllm.errors import DataError, ModelError
from fs_fedmllm.hub.fetch import restore
from fs_fedmllm.models.adapter_folder import other_base
from fs_fedmllm.runs.simulation import run
from fs_fedmllm.tools.adapters.compare import compare
from fs_fedmllm.tools.adapters.merge import merge
from fs_fedmllm.tools.adapters.opening import open_adapter
from fs_fedmllm.tools.adapters.predict import predict, read_rows

#: Steep enough that the adapter changes answers.
STEEP = ["train.optimizer.lr", "0.05", "train.local_update_steps", "4"]


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run")
    _, folder = run(schema.load(CONFIGS / "cross_i3t7.yaml", [*SHORT, *STEEP, "outdir", str(out)]))
    return folder.path / "adapter"


def changed(source: Path, target: Path, state: dict[str, torch.Tensor], **settings: Any) -> Path:
    shutil.copytree(source, target)
    (target / "adapter_model.safetensors").write_bytes(save(state))
    config = json.loads((source / "adapter_config.json").read_text()) | settings
    (target / "adapter_config.json").write_text(json.dumps(config))
    return target


def test_the_same_adapter_is_at_no_distance(adapter: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(adapter), str(adapter)]) == 0
    said = capsys.readouterr().out
    assert (
        said.startswith("same base, by fingerprints of their weights\n")
        and len([line for line in said.splitlines() if "1.0000" in line]) >= 26
    )
    found = compare(adapter, adapter)
    assert not found.settings and found.total is not None and found.total.distance == 0
    assert list(found.layers) == [str(i) for i in range(12)]


def test_distances_are_those_of_the_products(adapter: Path, tmp_path: Path) -> None:
    first = load((adapter / "adapter_model.safetensors").read_bytes())
    generator = torch.Generator().manual_seed(0)
    rotation = torch.linalg.qr(torch.randn(8, 8, generator=generator))[0]
    rotated = {k: rotation.T @ v if "lora_A" in k else v @ rotation for k, v in first.items()}
    found = compare(adapter, changed(adapter, tmp_path / "rotated", {k: v.contiguous() for k, v in rotated.items()}))
    # Other factors, the same products.
    assert found.total is not None and found.product_total is not None
    assert found.total.distance > 1 and found.product_total.distance < 1e-3 * found.product_total.first
    # Twice the scale: products twice as long, in the same direction; and against products that were made.
    louder = compare(adapter, changed(adapter, tmp_path / "louder", first, lora_alpha=16))
    assert louder.settings == {"lora_alpha": (8.0, 16)} and louder.total is not None and louder.total.distance == 0
    assert louder.product_total is not None and louder.product_total.cosine == pytest.approx(1)
    made = [first[k.replace("lora_A", "lora_B")].double() @ v.double() for k, v in first.items() if "lora_A" in k]
    norm = float(torch.cat([p.flatten() for p in made]).norm())
    assert louder.product_total.first == pytest.approx(norm) and louder.product_total.distance == pytest.approx(norm)
    fewer = dict(list(first.items())[2:])
    lacking = compare(adapter, changed(adapter, tmp_path / "fewer", fewer, base_model_name_or_path="a/b"))
    assert (
        lacking.same_base
        and lacking.told_by == "weights"
        and len(lacking.only_first) == 2
        and "base_model_name_or_path" in lacking.settings
    )


def test_merged_answers_as_adapted(adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    out = tmp_path / "merged"
    assert main(["merge", str(adapter), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    figures = {line.split("  ")[1].strip(): line for line in said.splitlines() if "  " in line}
    assert "adapter against bare base" in said and len(figures) >= 1
    assert not list(out.glob("*.bin")) and list(out.glob("*.safetensors"))
    opened = open_adapter(str(adapter))
    merged = AutoModelForImageTextToText.from_pretrained(out)
    processor = AutoProcessor.from_pretrained(out)
    ids = torch.tensor([processor.tokenizer("Which digit is it?", add_special_tokens=False)["input_ids"]])
    with torch.no_grad():
        one, two = merged(input_ids=ids).logits, opened.mllm.inner(input_ids=ids).logits
        with opened.mllm.model.disable_adapter():
            bare = opened.mllm.inner(input_ids=ids).logits
    assert (one - two).abs().max() < 1e-3 < 1e-2 < (bare - two).abs().max()
    with pytest.raises(ModelError, match="not empty"):
        merge(opened, out)


def test_predictions_are_those_of_the_evaluation(adapter: Path, federation: Any, tmp_path: Path) -> None:
    rows = list(federation.data.dataset.test[:6])
    rows[1], rows[2] = rows[1].showing(image=True, text=False), rows[2].showing(image=False, text=True)
    opened = open_adapter(str(adapter))
    assert opened.mllm is not federation.mllm and opened.base == "fs-fedmllm/tiny"
    file = tmp_path / "rows.jsonl"
    with file.open("w") as stream:
        for row in rows:
            image = None
            if row.image is not None:
                image = f"{row.id.replace('/', '_')}.png"
                shutil.copy(row.image, tmp_path / image)
            stream.write(json.dumps({"id": row.id, "image": image, "text": row.text}) + "\n")
    answers = predict(opened, read_rows(file))
    federation.mllm.adapter.load(load((adapter / "adapter_model.safetensors").read_bytes()))
    expected = np.exp(federation.evaluator.option_log_probs(rows))
    assert [answer.id for answer in answers] == [row.id for row in rows]
    assert [answer.shown for answer in answers] == ["both", "image", "text", "both", "both", "both"]
    for answer, shares in zip(answers, expected, strict=True):
        assert answer.probabilities is not None
        assert list(answer.probabilities.values()) == pytest.approx(shares, abs=1e-5)
        assert answer.answer == opened.description.template.options[int(shares.argmax())]  # type: ignore[union-attr]


def test_the_command_line_asks(adapter: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["predict", str(adapter), "--text", "three", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["shown"] == "text" and sum(answer["probabilities"].values()) == pytest.approx(1)
    assert main(["predict", str(adapter), "--text", "three", "--question", "Which digit?"]) == 0
    assert "%" not in capsys.readouterr().out
    assert main(["predict", str(adapter)]) == 2
    assert main(["predict", str(adapter), "--image", str(tmp_path / "none.png")]) == 2
    file = tmp_path / "rows.jsonl"
    for line, said in (
        ('{"text": true}', "text must be text, not True"),
        ("{}", "shows nothing"),
        ("not json", "not valid JSON"),
        ('{"image": "../../etc/passwd"}', "rows.jsonl:1"),
        ('{"img": "a.png"}', "no image beside 'img'.* Rename it: img to image"),
        ('{"images": ["a.png", "b.png"]}', "has 2 images"),
        ("", "no rows"),
    ):
        file.write_text(line + "\n")
        with pytest.raises(DataError, match=said):
            read_rows(file)
    file.write_text('{"text": 3}\n')  # as in training
    assert read_rows(file)[0].text == "3"
    capsys.readouterr()
    for words, said in (
        (["--text", "caf\udce9"], "--text holds bytes that are not UTF-8"),
        (["--question", "\ud83d", "--text", "a"], "--question holds bytes"),
        (["--text", " "], "the command line shows nothing"),
        (["--text", "three", "--file", str(file)], "--file, or --image, --text or --question, not both"),
    ):
        assert main(["predict", str(adapter), *words]) == 2
        assert said in capsys.readouterr().err
    exp = adapter.parent.parent
    assert main(["predict", str(exp), "--text", "three"]) == 2
    assert f"Name a run folder, or one that holds an adapter; the runs in it are {adapter.parent.name}." in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"init_lora_weights": "pissa_niter_16"}, "belongs to a base without the part"),
        ({"alora_invocation_tokens": [1]}, "alora_invocation_tokens is"),
        ({"layer_replication": [[0, 4]]}, "layer_replication is"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out is True"),
    ],
)
def test_settings_that_change_what_tensors_mean_are_refused(adapter: Path, tmp_path: Path, settings, said) -> None:
    state = load((adapter / "adapter_model.safetensors").read_bytes())
    with pytest.raises(ModelError, match=said):
        open_adapter(str(changed(adapter, tmp_path / "other", state, **settings)))


def test_tensors_that_no_training_wrote_are_refused(adapter: Path, tmp_path: Path) -> None:
    state = load((adapter / "adapter_model.safetensors").read_bytes())
    name = next(iter(state))
    for number, (tensor, said) in enumerate(
        [
            (state[name].to(torch.int8), r"is of torch\.int8, and an adapter has floating-point"),
            (state[name] * torch.nan, "not finite: its training diverged"),
            (state[name][:1], "Give the base and the rank"),
        ]
    ):
        with pytest.raises(ModelError, match=said):
            open_adapter(str(changed(adapter, tmp_path / str(number), state | {name: tensor.contiguous()})))


def test_an_adapter_on_another_base_is_told(adapter: Path, tmp_path: Path, caplog) -> None:
    state = load((adapter / "adapter_model.safetensors").read_bytes())

    def said(name: str, fingerprint: str | None = "", **settings: Any) -> str:
        folder = changed(adapter, tmp_path / name, state, **settings)
        told = json.loads((folder / "fedmllm.json").read_text())
        assert len(told["base_sha256"]) == 64
        if fingerprint:
            (folder / "fedmllm.json").write_text(json.dumps(told | {"base_sha256": fingerprint}))
        if fingerprint is None:
            (folder / "fedmllm.json").unlink()
        return other_base(folder, json.loads((folder / "adapter_config.json").read_text()), ModelOptions())

    assert said("own") == "" and said("nowhere", base_model_name_or_path=None) == ""
    assert said("moved", base_model_name_or_path="/mnt/models/Tiny/") == ""
    assert "with other weights than those of 'tiny' (fingerprint ffffffffffff" in said("weights", "f" * 64)
    other = said("name", None, base_model_name_or_path="Qwen/Qwen2-VL-7B")
    assert "adapter_config.json: the adapter's base is 'Qwen/Qwen2-VL-7B', and it is put on 'tiny'" in other
    assert "Qwen2-VL-7B" in said("mixed", base_model_name_or_path="Qwen/Qwen2-VL-7B")
    with caplog.at_level("WARNING", "fs_fedmllm"):
        open_adapter(str(tmp_path / "name"), base="tiny")
        live = json.loads((adapter / "adapter_config.json").read_text())
        restore(str(tmp_path / "weights" / "adapter_model.safetensors"), state, live, ModelOptions())
    assert [record.getMessage().partition(": ")[0] for record in caplog.records] == [
        str(tmp_path / "name" / "adapter_config.json"), "federate.restore_from",
    ]  # fmt: skip


def test_compare_tells_bases_by_weights_else_says_that_only_names_were_compared(
    adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = load((adapter / "adapter_model.safetensors").read_bytes())

    def said(name: str, fingerprint: Any = "own", **settings: Any) -> str:
        folder = changed(adapter, tmp_path / name, state, **settings)
        told = json.loads((folder / "fedmllm.json").read_text())
        if fingerprint != "own":
            (folder / "fedmllm.json").write_text(json.dumps(told | {"base_sha256": fingerprint}))
        if fingerprint is None:
            (folder / "fedmllm.json").unlink()
        code = main(["compare", str(adapter), str(folder)])
        out, error = capsys.readouterr()
        return out.splitlines()[0] if code == 0 else error

    # The same weights under another name, and other weights under the same.
    assert said("renamed", base_model_name_or_path="mine/copy") == "same base, by fingerprints of their weights"
    assert said("finetuned", "f" * 64) == "DIFFERENT bases, by fingerprints of their weights"
    by_name = "same base, 'fs-fedmllm/tiny', by name alone: not both have a fingerprint of its weights (base_sha256"
    assert said("older", "").startswith(by_name) and said("foreign", None).startswith(by_name)
    other = said("other", None, base_model_name_or_path="Qwen/Qwen2-VL-7B")
    assert other.startswith("DIFFERENT bases, 'fs-fedmllm/tiny' and 'Qwen/Qwen2-VL-7B', by name alone")
    nothing = said("nothing", None, base_model_name_or_path=None)
    assert nothing.startswith("whether the bases are the same is not known") and nothing.endswith("second not named")
    assert "base_sha256 is 'sha'; it must be 64 hexadecimal digits, or empty" in said("odd", "sha")
    assert main(["compare", str(adapter), str(tmp_path / "finetuned"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["same_base"], told["told_by"]) == (False, "weights") and len(told["bases"]) == 2


def test_merge_names_the_base_that_it_was(
    adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from fs_fedmllm.models.fingerprint import _fingerprint
    from fs_fedmllm.models.loader import TINY

    base = shutil.copytree(TINY, tmp_path / "finetuned")
    weights = load((base / "model.safetensors").read_bytes())
    (base / "model.safetensors").write_bytes(
        save({name: tensor * 1.01 for name, tensor in weights.items()}, {"format": "pt"})
    )
    _fingerprint.cache_clear()
    assert main(["merge", str(adapter), "--base", str(base), "--out", str(tmp_path / "one")]) == 0
    assert f"{tmp_path / 'one'}: finetuned (not the adapter's own base) with the adapter" in capsys.readouterr().out
    same = shutil.copytree(TINY, tmp_path / "copied")
    assert main(["merge", str(adapter), "--base", str(same), "--out", str(tmp_path / "two")]) == 0
    assert f"{tmp_path / 'two'}: fs-fedmllm/tiny with the adapter merged in" in capsys.readouterr().out


def test_an_adapter_without_a_description(adapter: Path, tmp_path: Path) -> None:
    bare = shutil.copytree(adapter, tmp_path / "bare")
    (bare / "fedmllm.json").unlink()
    opened = open_adapter(str(bare))
    assert opened.description is None
    row = read_rows(_file(tmp_path, {"text": "three"}))
    with pytest.raises(DataError, match="--template"):
        predict(opened, row)
    assert predict(opened, row, template="digits_triage")[0].probabilities is not None
    config = json.loads((bare / "adapter_config.json").read_text())
    (bare / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": "elsewhere"}))
    with pytest.raises(ModelError, match="--base"):
        open_adapter(str(bare))
    (bare / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": None}))
    with pytest.raises(ModelError, match="does not name the adapter's base"):
        open_adapter(str(bare))
    (bare / "adapter_config.json").write_text(json.dumps(config | {"target_modules": ["q_proj"]}))
    with pytest.raises(ModelError, match="Load it with PEFT"):
        open_adapter(str(bare))


def _file(folder: Path, row: dict[str, Any]) -> Path:
    file = folder / "one.jsonl"
    file.write_text(json.dumps(row) + "\n")
    return file
