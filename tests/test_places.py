"""Relative paths of a configuration: from where the command runs, else from the file's folder, never guessed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from short_runs import CONFIGS

from fs_fedmllm import api
from fs_fedmllm import config as schema
from fs_fedmllm.config.places import RESOLVED, placed
from fs_fedmllm.data.registry import load_dataset
from fs_fedmllm.errors import ConfigError, DataError
from fs_fedmllm.runs.run_folder import passed_over

CASES = "\n".join(f'  {c}: {{basis: "", question: "Which"}}' for c in ("both", "text", "image", "neither"))
TEMPLATE = f"task: choice\nmetric: accuracy\noptions: [a, b]\noriginal:\n{CASES}\naugmented:\n{CASES}\n"
FILE = """
data: {type: own, root: rows, splitter: fedmllm_aligned}
federate: {client_num: 2, sample_client_num: 2}
fedmllm: {data: {template: asks.yaml}}
"""


@pytest.fixture
def study(tmp_path, monkeypatch) -> Path:
    """A study's folder, and another that the command runs in."""
    folder = tmp_path / "study"
    (folder / "rows").mkdir(parents=True)
    (folder / "rows" / "data.jsonl").write_text(
        "".join(json.dumps({"text": f"t{i}", "label": i % 2, "split": "train"}) + "\n" for i in range(4))
    )
    (folder / "asks.yaml").write_text(TEMPLATE)
    (folder / "my.yaml").write_text(FILE)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return folder


def read(config: schema.Config) -> int:
    return len(load_dataset(config.data.type, config.data.root, config.fedmllm.data).train)


def test_a_study_works_from_anywhere(study, monkeypatch) -> None:
    config = schema.load(Path("../study/my.yaml"))
    assert config.data.root == str(study / "rows") and read(config) == 4
    assert api.load_config("../study/my.yaml") == config
    monkeypatch.chdir(study)
    config = schema.load("my.yaml")
    assert (config.data.root, config.fedmllm.data["template"]) == ("rows", "asks.yaml"), "as it is written"
    assert read(config) == 4


def test_what_leads_to_two_places_is_refused_with_both(study, tmp_path) -> None:
    (tmp_path / "elsewhere" / "rows").mkdir()
    with pytest.raises(ConfigError) as error:
        schema.load("../study/my.yaml")
    assert str(study / "rows") in str(error.value) and str(tmp_path / "elsewhere" / "rows") in str(error.value)
    for words in (["data.root", "rows"], ["data.root=rows"]):
        assert schema.load("../study/my.yaml", words).data.root == "rows", "the command line's leads from here"
    (tmp_path / "elsewhere" / "rows").rmdir()
    (tmp_path / "elsewhere" / "rows").symlink_to(study / "rows")
    assert schema.load("../study/my.yaml").data.root == "rows", "two ways to one folder"
    (tmp_path / "elsewhere" / "asks.yaml").write_text(TEMPLATE)
    with pytest.raises(ConfigError, match=r"fedmllm\.data\.template is 'asks\.yaml', which is .*study/asks\.yaml"):
        schema.load("../study/my.yaml")


def test_a_path_that_leads_nowhere_is_said_in_full(study, tmp_path) -> None:
    (study / "my.yaml").write_text(FILE.replace("root: rows", "root: gone"))
    config = schema.load("../study/my.yaml")
    with pytest.raises(ConfigError, match=f"data.root: {tmp_path}/elsewhere/gone is not a folder"):
        read(config)
    (study / "rows" / "data.jsonl").write_text('{"label": 0, "split": "train"}')
    (study / "my.yaml").write_text(FILE)
    with pytest.raises(DataError, match=rf"^{study}/rows/data\.jsonl:1: the row has no image"):
        read(schema.load("../study/my.yaml"))


def test_shipped_configurations_and_odd_values_are_left_as_they_are(study) -> None:
    for path in sorted(CONFIGS.glob("*.yaml")):
        raw = schema.read_yaml(path)
        assert placed(raw, path) == raw
    for odd in ({}, {"data": None}, {"data": "x"}, {"data": {"root": 3}}, {"data": {"root": "/x"}}, {"fedmllm": []}):
        assert placed(odd, study / "my.yaml") == odd
    assert placed({"data": {"root": "~/x"}}, "a.yaml") == {"data": {"root": "~/x"}}
    named = {"fedmllm": {"template": "asks.yaml", "data": {"template": "digits_triage"}}}
    assert placed(named, study / "my.yaml")["fedmllm"] == {
        "template": str(study / "asks.yaml"), "data": {"template": "digits_triage"},
    }  # fmt: skip


def test_the_record_of_a_run_is_read_as_it_was_written(study, tmp_path, monkeypatch) -> None:
    """A root of "." is a folder wherever one looks from; beside a run's record there is no data."""
    monkeypatch.chdir(study / "rows")
    (study / "rows" / "my.yaml").write_text(FILE.replace("root: rows", 'root: "."').replace("asks", "../asks"))
    config = schema.load("my.yaml", ["expname", "job"])
    folder = study / "rows" / "exp" / "job"
    folder.mkdir(parents=True)
    (folder / RESOLVED).write_text(yaml.safe_dump(schema.to_mapping(config)))
    assert schema.load(folder / RESOLVED).data.root == "."
    (folder / "results.json").write_text("{}")
    assert "of this very configuration, whose results stand" in passed_over(folder, config)
