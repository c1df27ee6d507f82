"""Runs that publish, and what is made of a published revision: resumed, started from, loaded, refused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from hub_server import TOKEN, Hub
from safetensors.torch import load, save
from short_runs import CONFIGS, REPOSITORY, SHORT

from fs_fedmllm import config as schema
from fs_fedmllm.cli import main
from fs_fedmllm.config import ModelOptions
from fs_fedmllm.errors import FedMLLMError, HubError, ModelError
from fs_fedmllm.hub import publisher
from fs_fedmllm.hub.fetch import adapter_folder, restore
from fs_fedmllm.runs.simulation import run

REPO = "someone/triage"
Make = Callable[..., schema.Config]
ROUNDS = ["federate.total_round_num", "3", "train.local_update_steps", "1", "eval.freq", "2"]


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publisher.time, "sleep", lambda seconds: None)
    monkeypatch.setitem(publisher.push.__kwdefaults__, "sleep", lambda seconds: None)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that knows of no hub."""
    out = tmp_path_factory.mktemp("plain")
    _, folder = run(schema.load(CONFIGS / "cross_i3t7.yaml", [*SHORT, *ROUNDS, "outdir", str(out)]))
    return folder.path


def digest(folder: Path) -> str:
    return str(json.loads((folder / "results.json").read_text())["adapter_sha256"])


def test_a_run_pushes_every_round_and_another_machine_goes_on(
    hub: Hub, short_config: Make, plain: Path, tmp_path: Path
) -> None:
    words = [*ROUNDS, "fedmllm.hub.repo", REPO, "fedmllm.hub.push", "every", "fedmllm.hub.every", "1"]
    config = short_config("cross_i3t7", *words, "fedmllm.hub.checkpoint", "True", "fedmllm.hub.licence", "apache-2.0")
    results, folder = run(config)
    assert results["adapter_sha256"] == digest(plain)  # where it is published changes no bit
    repo = hub.repos[REPO]
    assert [entry["round"] for entry in results["hub"]["published"]] == [1, 2, 3] and not results["hub"]["failed"]
    assert repo.private and [message[:7] for message in repo.messages[1:]] == ["Round 1", "Round 2", "Round 3"]
    last, first = repo.files(), repo.commits[results["hub"]["published"][0]["commit"]]
    assert last["adapter_model.safetensors"] == (folder.path / "adapter" / "adapter_model.safetensors").read_bytes()
    assert {name for name in first if name.startswith("checkpoint/")} == {
        "checkpoint/state.json", "checkpoint/round-1.safetensors"
    }  # fmt: skip
    assert not [name for name in last if name.startswith("checkpoint/")]
    # The card says how images are shown, from the first push on; so do the figures beside it.
    images = json.loads((folder.path / "results.json").read_text())["images"]
    for files in (first, last):
        assert all(f"  - `{name}`: " in files["README.md"].decode() for name in images)
        assert images and json.loads(files["results.json"])["images"] == images
    # Nothing of this machine is in it: no folder, no row.
    everything = b"".join(data for name, data in last.items() if not name.endswith(".safetensors")).decode()
    assert str(tmp_path) not in everything and "adapter_best" not in everything
    assert json.loads(last["adapter_config.json"])["base_model_name_or_path"] == "fs-fedmllm/tiny"
    # Another machine, with nothing but the first push, ends with the same bytes.
    commit = results["hub"]["published"][0]["commit"]
    elsewhere = short_config(
        "cross_i3t7", *ROUNDS, "outdir", tmp_path / "elsewhere", "fedmllm.hub.resume_from", f"{REPO}@{commit}"
    )
    resumed, other = run(elsewhere)
    assert resumed["adapter_sha256"] == results["adapter_sha256"]
    turns = [json.loads(line) for line in (other.path / "metrics.jsonl").read_text().splitlines()]
    assert [line["round"] for line in turns if line["kind"] == "round"] == [0, 1, 2]
    with pytest.raises(HubError, match="holds no checkpoint"):
        run(short_config("cross_i3t7", *ROUNDS, "outdir", tmp_path / "n", "fedmllm.hub.resume_from", REPO))


def test_a_hub_that_is_down_never_stops_a_run(
    hub: Hub, short_config: Make, plain: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hub.fail("POST", "/commit/", 503, times=9999)
    words = [*ROUNDS, "fedmllm.hub.repo", REPO, "fedmllm.hub.push", "best", "fedmllm.hub.attempts", "2"]
    results, folder = run(short_config("cross_i3t7", *words))
    assert results["adapter_sha256"] == digest(plain)
    assert not results["hub"]["published"] and results["hub"]["failed"]
    assert "HubPushFailed" in caplog.text and list(hub.repos[REPO].files()) == [".gitattributes"]
    # The same folder is pushed later by hand.
    hub.faults.clear()
    assert main(["push", str(folder.path), REPO, "--licence", "apache-2.0"]) == 0
    best = (folder.path / "adapter_best" / "adapter_model.safetensors").read_bytes()
    assert hub.repos[REPO].files()["adapter_model.safetensors"] == best


def test_the_card_says_what_the_run_was(hub: Hub, plain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["push", str(plain), REPO, "--which", "last", "--licence", "apache-2.0"]) == 0
    assert "Round 3" in capsys.readouterr().out
    text = hub.repos[REPO].files()["README.md"].decode()
    metadata = yaml.safe_load(text.split("---")[1])
    assert metadata["base_model"] == "fs-fedmllm/tiny" and metadata["library_name"] == "peft"
    assert metadata["license"] == "apache-2.0"
    results = json.loads((plain / "results.json").read_text())
    entry = results["evaluations"][-1]
    stated = {r["metrics"][0]["type"]: r["metrics"][0]["value"] for r in metadata["model-index"][0]["results"]}
    assert stated["macro_f1"] == pytest.approx(entry["test_macro_f1"], abs=1e-6)
    low, high = (float(x) for x in text.split("| acc |")[1].split("|")[1].split("(")[0].split(" to "))
    assert low <= entry["test_acc"] <= high and high - low < 0.6
    for said in (results["manifest_sha256"], "image_clients 3", "server method: fedavg", "2 a round, 3 rounds",
                 f"sent: {results['bytes_sent']} bytes", "| 1 |", "licence apache-2.0", "No differential privacy",
                 "## Intended use and limits", "PeftModel.from_pretrained"):  # fmt: skip
        assert said in text, said


def test_a_server_that_knows_no_clients_rows_publishes_too(hub: Hub, plain: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(plain, tmp_path / "server"))
    (folder / "manifest.json").unlink()
    assert main(["push", str(folder), REPO, "--which", "last"]) == 0
    text = hub.repos[REPO].files()["README.md"].decode()
    assert "## Results" in text and "## Clients" not in text


def test_peft_loads_a_published_adapter_as_the_card_says(hub: Hub, plain: Path, tmp_path: Path) -> None:
    """In a process of its own, which knows the hub by HF_ENDPOINT as a user's does."""
    assert main(["push", str(plain), REPO, "--which", "last"]) == 0
    text = hub.repos[REPO].files()["README.md"].decode()
    script = text.split("```python\n")[1].split("```")[0] + (
        "from peft import get_peft_model_state_dict\n"
        "from safetensors.torch import save_file\n"
        "state = {k: v.contiguous() for k, v in get_peft_model_state_dict(model).items()}\n"
        f"save_file(state, {str(tmp_path / 'loaded.safetensors')!r})\n"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": TOKEN,
                    "HF_HUB_DISABLE_XET": "1", "PYTHONPATH": str(REPOSITORY)}  # fmt: skip
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = load((tmp_path / "loaded.safetensors").read_bytes())
    expected = load((plain / "adapter" / "adapter_model.safetensors").read_bytes())
    assert set(found) == set(expected) and all(torch.equal(found[k], expected[k]) for k in expected)


def test_a_run_starts_from_a_published_adapter(hub: Hub, plain: Path, short_config: Make) -> None:
    assert main(["push", str(plain), REPO, "--which", "last"]) == 0
    here, there = (
        run(short_config("cross_i3t7", *SHORT, "expname", name, "federate.restore_from", source))[0]
        for name, source in (("here", plain / "adapter"), ("there", f"hub:{REPO}@main"))
    )
    assert here["adapter_sha256"] == there["adapter_sha256"] != digest(plain)


def test_what_does_not_fit_is_refused(hub: Hub, plain: Path, tmp_path: Path) -> None:
    good = load((plain / "adapter" / "adapter_model.safetensors").read_bytes())
    live = json.loads((plain / "adapter" / "adapter_config.json").read_text())
    first = next(iter(good))

    def put(state: dict[str, torch.Tensor], **changes: object) -> Path:
        folder = tmp_path / "wrong"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        (folder / "adapter_model.safetensors").write_bytes(save(state))
        (folder / "adapter_config.json").write_text(json.dumps(live | changes))
        return folder

    assert restore(str(put(good)), good, live, ModelOptions()).keys() == good.keys()
    for state, said in (
        (good | {"extra.lora_A.weight": torch.zeros(2)}, "unknown"),
        ({k: v for k, v in good.items() if k != first}, "missing"),
        (good | {first: torch.zeros(1, 1)}, "the model needs"),
        (good | {first: torch.full_like(good[first], torch.nan)}, "not finite"),
    ):
        with pytest.raises(ModelError, match=said):
            restore(str(put(state)), good, live, ModelOptions())
    with pytest.raises(ModelError, match="lora_alpha is 16"):
        restore(str(put(good, lora_alpha=16)), good, live, ModelOptions())
    pickled = put(good)
    (pickled / "adapter_model.safetensors").rename(pickled / "adapter_model.bin")
    with pytest.raises(ModelError, match="never read"):
        adapter_folder(str(pickled))
    # On the hub too: a repository that holds a pickle only.
    assert main(["push", str(plain), REPO, "--which", "last"]) == 0
    files = hub.repos[REPO].files()
    files["adapter_model.bin"] = files.pop("adapter_model.safetensors")
    with pytest.raises(HubError, match="only adapters in safetensors"):
        adapter_folder(f"hub:{REPO}")
    for reference in ("hub:someone", "hub:../x", "hub:a/b@", "hub:a/b@../c"):
        with pytest.raises(HubError, match="owner/name"):
            adapter_folder(reference)
    with pytest.raises(HubError, match="cannot be fetched"):
        adapter_folder("hub:nobody/nothing")


def test_a_base_that_is_a_folder_needs_its_public_id(plain: Path, tmp_path: Path) -> None:
    from fs_fedmllm.models.export import base_name

    assert base_name(str(tmp_path)) == tmp_path.name
    assert base_name(str(tmp_path), "owner/model") == base_name("owner/model") == "owner/model"
    snapshot = "/home/x/.cache/hub/models--owner--model/snapshots/" + "a" * 40
    assert base_name(snapshot) == "owner/model"
    copy = shutil.copytree(plain, tmp_path / "copy")
    config = copy / "adapter_best" / "adapter_config.json"
    config.write_text(config.read_text().replace("fs-fedmllm/tiny", "my-folder"))
    assert main(["push", str(copy), REPO, "--dry-run", str(tmp_path / "dry")]) == 2
    assert main(["push", str(copy), REPO, "--dry-run", str(tmp_path / "dry"), "--base-model", "owner/model"]) == 0
    card = (tmp_path / "dry" / "README.md").read_text()
    assert "base_model: owner/model" in card and '"owner/model"' in card
    assert json.loads((tmp_path / "dry" / "fedmllm.json").read_text())["base"] == "owner/model"


def test_a_folder_that_no_run_wrote_so_is_not_published(plain: Path, tmp_path: Path, capsys) -> None:
    good = (plain / "adapter" / "adapter_model.safetensors").read_bytes()
    name, tensor = next(iter(load(good).items()))
    both = ("adapter/adapter_model.safetensors", "adapter_best/adapter_model.safetensors")
    resolved = yaml.safe_load((plain / "resolved_config.yaml").read_text())
    for files, edit, said in (
        (both, b"", "cannot be read as a safetensors adapter"),
        (both, good[:1000], "cannot be read as a safetensors adapter"),
        (both, save({}), "holds no tensors"),
        (both, save({name: tensor * torch.nan}), f"{name!r} holds values that are not finite"),
        (both, save({name: tensor.int()}), "is of torch.int32"),
        (both[:1], save({name: tensor + 1}), "is not the adapter that results.json beside it is of"),
        (("results.json",), {"best": 5}, "best is not what a run writes there"),
        (("results.json",), {"evaluations": [1]}, "evaluations must be mappings"),
        (("results.json",), {"test_sets": {"a": 1}}, "test_sets must be mappings"),
        (
            ("results.json",),
            {"evaluations": [{"no": 1}]},
            "are not what a run of this release wrote (KeyError: 'round')",
        ),
        (("resolved_config.yaml",), {"federate": None}, "are not what a run of this release wrote"),
        (("adapter/fedmllm.json",), {"version": 9}, "has version 9; this release reads version 1"),
        (("adapter/fedmllm.json",), {"template": {}}, "template"),
        (("adapter/adapter_config.json",), {"base_model_name_or_path": None}, "names no base"),
    ):
        copy = shutil.copytree(plain, tmp_path / "copy")
        for file in (copy / part for part in files):
            if isinstance(edit, bytes):
                file.write_bytes(edit)
            else:
                value = resolved if file.suffix == ".yaml" else json.loads(file.read_text())
                file.write_text(json.dumps(value | edit))
        assert main(["push", str(copy), REPO, "--which", "last", "--dry-run", str(tmp_path / "dry")]) == 2, said
        assert said in capsys.readouterr().err and not (tmp_path / "dry").exists()
        shutil.rmtree(copy)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("fedmllm.hub.repo", "adapter"), "owner/name"),
        (("fedmllm.hub.repo", "a/b", "federate.method", "local"), "no global adapter"),
        (("fedmllm.hub.resume_from", "a/b", "federate.restore_from", "x"), "both set"),
    ],
)
def test_configurations_that_mean_nothing(short_config: Make, words: tuple[str, ...], said: str) -> None:
    with pytest.raises(FedMLLMError, match=said):
        short_config("cross_i3t7", *words)
