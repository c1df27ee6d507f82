"""The public trainer: made as TRL's, with equation 3 in its loss."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl", reason="NOT RUN: trl is not installed")

import torch
from datasets import Dataset, load_dataset
from peft import LoraConfig
from transformers import AutoModelForImageTextToText, AutoProcessor
from trl import SFTConfig, SFTTrainer
from wandb_runs import offline_history

from fs_fedmllm import FedMLLMTrainer
from fs_fedmllm.config import RegularizerConfig
from fs_fedmllm.errors import ConfigError, DataError, ModelError
from fs_fedmllm.models.export import adapter_bytes
from fs_fedmllm.models.loader import TINY

LORA = LoraConfig(r=4, target_modules=r".*language_model\.layers\.\d+\..*(q_proj|v_proj)")
ADAPTIVE = RegularizerConfig(type="adaptive", gamma_max=0.5, skip_layers=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A client with images and one without, as exported."""
    from fs_fedmllm.cli import main

    out = tmp_path_factory.mktemp("trl") / "out"
    assert main(["data", "export", "missing_b50", "--format", "trl", "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def rows(folder: Path) -> Dataset:
    return load_dataset(str(folder / "client_1"))["train"].select(range(12))


def arguments(tmp_path: Path, **more: Any) -> SFTConfig:
    fields: dict[str, Any] = {
        "max_length": None, "per_device_train_batch_size": 4, "logging_steps": 1, "num_train_epochs": 1,
        "report_to": [], "use_cpu": True, "learning_rate": 1e-3, "bf16": False, "gradient_checkpointing": False,
        "train_sampling_strategy": "sequential", "lr_scheduler_type": "constant", "save_strategy": "no",
        "disable_tqdm": True, "adam_epsilon": 1e-2, "weight_decay": 0.0,
    }  # fmt: skip
    return SFTConfig(str(tmp_path / "out"), **fields | more)


def trainer(tmp_path: Path, rows: Any, kind: Any = FedMLLMTrainer, **more: Any) -> Any:
    args = more.pop("args", None) or arguments(tmp_path)
    more.setdefault("peft_config", LORA)
    model = AutoModelForImageTextToText.from_pretrained(TINY)
    return kind(
        model=model, args=args, train_dataset=rows, processing_class=AutoProcessor.from_pretrained(TINY), **more
    )


def adapter(of: Any) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in of.model.named_parameters() if p.requires_grad}


def test_it_is_trls_trainer_without_a_regulariser(tmp_path: Path, rows: Dataset) -> None:
    ours, theirs = (trainer(tmp_path, rows, kind) for kind in (FedMLLMTrainer, SFTTrainer))
    for one in (ours, theirs):
        one.train()
    assert isinstance(ours, SFTTrainer)
    assert all(torch.equal(value, adapter(theirs)[name]) for name, value in adapter(ours).items())


@pytest.mark.parametrize("passes", [1, 2])
def test_the_penalty_is_in_the_loss_once_a_step(tmp_path: Path, rows: Dataset, passes: int) -> None:
    """Against a plain loop: the same steps on the trainer's own batches, and equation 3 written out."""
    args = arguments(tmp_path, per_device_train_batch_size=4 // passes, gradient_accumulation_steps=passes)
    ours = trainer(tmp_path, rows, args=args, regularizer=ADAPTIVE, missing_rate=0.5)
    plain = trainer(tmp_path, rows)
    start = adapter(plain)
    chosen = [name for name in start if 1 <= layer(name) <= depth(plain) - 2]
    parameters = dict(plain.model.named_parameters())
    optimizer = torch.optim.AdamW([parameters[n] for n in start], lr=1e-3, eps=1e-2, weight_decay=0.0)
    penalties = []
    for batch in plain.get_train_dataloader():
        plain.model.train()
        batch = dict(batch)
        batch.pop("use_cache", None)
        task = plain.model(**batch).loss
        penalty = 0.25 * sum((parameters[name] - start[name]).square().sum() for name in chosen)
        (task + penalty).backward()
        torch.nn.utils.clip_grad_norm_([parameters[n] for n in start], 1.0)
        optimizer.step()
        optimizer.zero_grad()
        penalties.append(float(penalty))
    ours.train()
    for name, value in adapter(ours).items():
        torch.testing.assert_close(value, parameters[name], rtol=1e-4, atol=2e-7)
    told = [entry for entry in ours.state.log_history if "penalty" in entry]
    assert [entry["penalty"] for entry in told] == pytest.approx(penalties, rel=1e-3, abs=1e-9)
    for entry in told:
        assert entry["loss"] == pytest.approx(entry["task_loss"] + entry["penalty"], rel=1e-5)


def test_it_pulls_to_the_anchor_and_evaluates_without_it(tmp_path: Path, rows: Dataset) -> None:
    first = trainer(tmp_path, rows)
    away = {name: tensor + 0.1 for name, tensor in named(first).items()}
    (tmp_path / "adapter_model.safetensors").write_bytes(adapter_bytes(away))
    for anchor in (away, tmp_path):
        one = trainer(tmp_path, rows, regularizer=ADAPTIVE, missing_rate=1.0, anchor=anchor, eval_dataset=rows)
        task = one.evaluate()["eval_loss"]
        one.train()
        entry = next(entry for entry in one.state.log_history if "penalty" in entry)
        covered = sum(t.numel() for n, t in away.items() if 1 <= layer(n) <= depth(one) - 2)
        assert entry["penalty"] == pytest.approx(0.5 * covered * 0.01, rel=1e-3)
        assert task == pytest.approx(first.evaluate(rows)["eval_loss"], rel=1e-5)


def named(of: Any) -> dict[str, torch.Tensor]:
    return dict(zip(of._handles().names, [p.detach().clone() for p in of._handles().parameters], strict=True))


def layer(name: str) -> int:
    return int(name.split("layers.")[1].split(".")[0])


def depth(of: Any) -> int:
    return int(of.model.config.get_text_config().num_hidden_layers)


def test_beta_is_measured_on_the_rows(tmp_path: Path, rows: Dataset) -> None:
    one = trainer(tmp_path, rows, regularizer=ADAPTIVE)
    without = sum(not images for images in rows["images"]) / len(rows)
    no_text = sum(shown == "image" for shown in rows["presence"]) / len(rows)
    assert 0 < max(without, no_text) < 1
    assert one.penalty.gamma == pytest.approx(0.5 * max(without, no_text))
    assert trainer(tmp_path, rows, regularizer="fedprox").penalty.gamma == pytest.approx(0.005)


def test_what_cannot_be_is_said(tmp_path: Path, rows: Dataset) -> None:
    with pytest.raises(ConfigError, match="regularizer is 'moon'; it can be 'adaptive' or 'fedprox'"):
        trainer(tmp_path, rows, regularizer="moon")
    with pytest.raises(ConfigError, match=r"missing_rate is 1\.5"):
        trainer(tmp_path, rows, regularizer=ADAPTIVE, missing_rate=1.5)
    with pytest.raises(ConfigError, match="skip_layers is 40, which leaves no layer"):
        trainer(tmp_path, rows, regularizer=RegularizerConfig(type="adaptive", skip_layers=40))
    with pytest.raises(ConfigError, match="the model has none: give peft_config"):
        trainer(tmp_path, rows, regularizer="fedprox", peft_config=None)
    with pytest.raises(ModelError, match=r"anchor does not fit the model: 1 unknown tensors, the first 'x'"):
        trainer(tmp_path, rows, regularizer="fedprox", anchor={"x": torch.zeros(1)}).train()
    with pytest.raises(DataError, match="no token of its answer left: max_length is 20"):
        trainer(tmp_path, rows, args=arguments(tmp_path, max_length=20)).train()


def test_a_data_set_without_images_trains(tmp_path: Path, rows: Dataset) -> None:
    texts = rows.filter(lambda row: not row["images"]).remove_columns("images")
    one = trainer(tmp_path, texts)
    assert one.train().global_step >= 1 and one.train_dataset["images"][0] == []


def test_trls_batches_are_the_runs(tmp_path: Path, folder: Path, federation_of_missing: Any) -> None:
    """The exported prompts through TRL's own collator give the tokens and labels that a run trains on."""
    federation, samples = federation_of_missing
    rows = load_dataset(str(folder / "client_1"))["train"].select(range(12))
    batch = trainer(tmp_path, rows, SFTTrainer).data_collator([rows[i] for i in range(12)])
    for i, encoded in enumerate(federation.encoder.encode(samples[:12])):
        shown = batch["attention_mask"][i].bool()
        assert batch["input_ids"][i][shown].tolist()[: len(encoded.prompt)] == list(encoded.prompt)
        learnt = batch["labels"][i][batch["labels"][i] != -100].tolist()
        assert learnt[: len(encoded.completion)] == list(encoded.completion)


@pytest.fixture
def federation_of_missing(short_config: Any) -> Any:
    from fs_fedmllm.rounds.federation import Federation
    from fs_fedmllm.scenarios.federated_data import prepare_data

    config = short_config("missing_b50")
    data = prepare_data(config)
    return Federation.build(config, data), list(data.clients[1])


def test_trls_own_script_takes_the_folder(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from trl.scripts import sft

    words = [
        "sft", "--dataset_name", str(folder / "client_1"), "--model_name_or_path", str(TINY), "--use_peft",
        "--lora_r", "4", "--lora_target_modules", "q_proj", "v_proj", "--max_steps", "2", "--use_cpu",
        "--per_device_train_batch_size", "2", "--output_dir", str(tmp_path / "trained"), "--report_to", "none",
        "--max_length", "4096", "--disable_tqdm", "True", "--dtype", "float32", "--bf16", "False",
        "--gradient_checkpointing", "False",
    ]  # fmt: skip
    monkeypatch.setattr(sys, "argv", words)
    script, training, model, dataset = sft.make_parser().parse_args_and_config()
    sft.main(script, training, model, dataset)
    assert (tmp_path / "trained" / "adapter_model.safetensors").is_file()


def _mlflow_history(folder: Path) -> list[dict[str, float]]:
    """The same of the one run in MLflow's files."""
    from mlflow import MlflowClient

    client = MlflowClient(f"file://{folder / 'mlruns'}")
    (run,) = client.search_runs([e.experiment_id for e in client.search_experiments()])
    steps: dict[int, dict[str, float]] = {}
    for name in run.data.metrics:
        for point in client.get_metric_history(run.info.run_id, name):
            steps.setdefault(point.step, {})[name] = point.value
    return [steps[step] for step in sorted(steps)]


@pytest.mark.parametrize(
    ("tool", "history", "prefix"), [("wandb", offline_history, "train/"), ("mlflow", _mlflow_history, "")]
)
def test_report_to_has_the_loss_and_the_penalty_apart(
    tmp_path, rows, monkeypatch, tool: str, history: Any, prefix: str
) -> None:
    pytest.importorskip(tool, reason=f"NOT RUN: {tool} is not installed")
    for name, value in {
        "WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path), "WANDB_SILENT": "true", "WANDB_PROJECT": "p",
        "WANDB_CACHE_DIR": str(tmp_path / "cache"), "WANDB_CONFIG_DIR": str(tmp_path / "config"),
        "MLFLOW_TRACKING_URI": f"file://{tmp_path / 'mlruns'}", "MLFLOW_ALLOW_FILE_STORE": "true",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    args = arguments(tmp_path, report_to=[tool], run_name="ours")
    made = trainer(tmp_path, rows, args=args, regularizer=ADAPTIVE)
    try:
        made.train()
        wanted = [entry for entry in made.state.log_history if "penalty" in entry]
    finally:
        if tool == "wandb":
            import wandb

            wandb.teardown()  # its own process writes the file, and has written it all when it has ended
    told = [line for line in history(tmp_path) if f"{prefix}penalty" in line]
    assert len(told) == len(wanted) == 3 and wanted[-1]["penalty"] > 0
    for line, entry in zip(told, wanted, strict=True):
        for name in ("loss", "task_loss", "penalty"):
            assert line[prefix + name] == pytest.approx(entry[name])
