"""Clients with a learning rate, steps and a batch size of their own: FederatedScope's ``--client_cfg``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from short_runs import CONFIGS, SHORT

from fs_fedmllm import config as schema
from fs_fedmllm.cli import main
from fs_fedmllm.errors import ConfigError
from fs_fedmllm.rounds.schedule import LocalWork
from fs_fedmllm.runs.simulation import run

CROSS = CONFIGS / "cross_i3t7.yaml"
OWN = """\
client_10: {train: {optimizer: {lr: 1e-2}}}
client_2:
  train: {local_update_steps: 5, optimizer: {lr: 0.004}}
  dataloader: {batch_size: 3}
client_3: {fedmllm: {train: {batch_size: 7}}}
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    file = tmp_path / "clients.yaml"
    file.write_text(OWN)
    return file


def test_each_client_has_its_own(own: Path) -> None:
    config = schema.load(CROSS, client_cfg=own)
    assert list(config.fedmllm.clients) == ["client_2", "client_3", "client_10"]
    assert (
        config.for_client(10).train.optimizer.lr == 0.01
        and config.for_client(10).train == schema.load(CROSS, ["train.optimizer.lr", "0.01"]).train
    )
    assert [len(batch) for batch in LocalWork.of(config, 2).batches(2, 0, 30)] == [3] * 5
    assert [len(batch) for batch in LocalWork.of(config, 3).batches(3, 0, 30)][:2] == [7, 7]
    assert config.for_client(1) is config
    # It is part of what the run is, and read back from what the run writes.
    assert schema.config_digest(config) != schema.config_digest(schema.load(CROSS))
    again = yaml.safe_load(yaml.safe_dump(schema.to_mapping(config)))
    assert schema.from_mapping(again) == config
    by_word = schema.load(CROSS, ["client_2.train.optimizer.lr", "0.003"], client_cfg=own)
    assert by_word.for_client(2).train.optimizer.lr == 0.003
    assert by_word.for_client(10).train.optimizer.lr == 0.01


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("client_1: {train: {optimizer: {type: SGD}}}", "train.optimizer.type is 'SGD', but clients differ in"),
        ("client_1: {model: {out_channels: 2}}", "client_1.model.out_channels is 2, but clients differ in"),
        ("client_1: {fedmllm: {privacy: {dp: {clip_norm: 1.0}}}}", "client_1.fedmllm.privacy.dp.clip_norm is 1.0"),
        ("client_1: {optimizer: {lr: 0.1}}", "unknown key 'optimizer.lr'; did you mean 'train.optimizer.lr'"),
        ("client_1: {train: {optimizer: {lr: -1}}}", "client_1.train.optimizer.lr is -1.0; it must be at least 0"),
        ("client_1: {train: {local_update_steps: some}}", "train.local_update_steps must be a whole number"),
        ("client_1: 3", "client_1 must be a mapping"),
        ("client_0: {}", "'client_0' is not a client"),
        ("server: {}", "'server' is not a client"),
        (
            "client_1: {dataloader: {batch_size: 3}, fedmllm: {train: {batch_size: 4}}}",
            "and both set fedmllm.train.batch_size",
        ),
    ],
)
def test_the_rest_is_refused_by_name(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "clients.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        schema.load(CROSS, client_cfg=file)
    assert str(caught.value).startswith(f"{file}") and said in str(caught.value) and "\n" not in str(caught.value)


def test_clients_that_are_not_there_and_two_sources(own: Path) -> None:
    with pytest.raises(ConfigError, match=r"client_10 has settings of its own, but federate.client_num is 9"):
        words = ["federate.client_num", "9", "data.splitter_args", "[{image_clients: 3, text_clients: 6}]"]
        schema.load(CROSS, words, client_cfg=own)
    with pytest.raises(ConfigError, match=r"both hold clients' own settings"):
        schema.load(CROSS, ["fedmllm.clients", "{client_1: {train: {local_update_steps: 2}}}"], client_cfg=own)
    with pytest.raises(ConfigError, match=r"all rows in one place"):
        schema.load(CROSS, ["federate.method", "global"], client_cfg=own)


def test_a_run_with_it(own: Path, tmp_path: Path) -> None:
    """One client takes more steps than the others; the command line takes the file, and results.json says it."""
    words = [*SHORT, "federate.sample_client_num", "10", "outdir", str(tmp_path / "exp"), "expname", "own"]
    plain, _ = run(schema.load(CROSS, [*words, "expname", "plain"]))
    own.write_text("client_4: {train: {local_update_steps: 3}}")
    assert main(["run", str(CROSS), "--engine", "embedded", "--client_cfg", str(own), *words]) == 0
    folder = tmp_path / "exp" / "own"
    results = json.loads((folder / "results.json").read_text())
    assert results["client_settings"] == {"client_4": {"train": {"local_update_steps": 3}}}
    assert results["adapter_sha256"] != plain["adapter_sha256"]
    turns = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    steps = {turn["client"]: turn["steps"] for turn in turns if turn["kind"] == "turn"}
    assert steps == {client: 3 if client == 4 else 2 for client in range(1, 11)}
    resolved = yaml.safe_load((folder / "resolved_config.yaml").read_text())
    assert resolved["fedmllm"]["clients"] == results["client_settings"]
