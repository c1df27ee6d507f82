"""Presets: what is on disk is what the table says, and each is a configuration that resolves."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from fs_fedmllm import config
from fs_fedmllm.config.overrides import TINY
from fs_fedmllm.shipped import find_config

REPOSITORY = Path(__file__).resolve().parent.parent
CONFIGS = REPOSITORY / "configs"
SCRIPT = runpy.run_path(str(REPOSITORY / "scripts" / "write_presets.py"))
ALL = dict(SCRIPT["presets"]())


def test_the_files_have_not_drifted_from_the_table():
    on_disk = {
        f"{path.parent.name}/{path.name}": path.read_text(encoding="utf-8")
        for task in SCRIPT["TASKS"]
        for path in (CONFIGS / task.folder).glob("*")
    }
    assert sorted(on_disk) == sorted(ALL)
    assert on_disk == ALL, "run python scripts/write_presets.py"


def test_every_cell_of_the_tables_is_there():
    assert len(ALL) == 12 + 12 + 6 + 3 + 2 * 4


@pytest.mark.parametrize("name", sorted(ALL))
def test_a_preset_has_the_papers_protocol(name):
    loaded = config.load(CONFIGS / name)
    assert loaded.federate.total_round_num == {"hateful_memes": 25, "crisismmd": 40, "medical": 50}[loaded.data.type]
    assert loaded.train.optimizer.lr == 2e-5
    assert loaded.fedmllm.train.lr_horizon == 50
    assert (loaded.train.local_update_steps, loaded.train.batch_or_epoch) == (1, "epoch")
    assert loaded.fedmllm.train.batch_size == 4
    drawn, clients = (int(word) for word in name[:-5].rsplit("_", 1)[1].split("of")) if "of" in name[-11:] else (2, 10)
    assert (loaded.federate.sample_client_num, loaded.federate.client_num) == (drawn, clients)
    paper = {model.file: model.path for model in SCRIPT["PAPER_MODELS"]}
    assert loaded.model.fedmllm.path == next((paper[end] for end in paper if end in name), SCRIPT["MODEL"])
    assert not loaded.model.fedmllm.trust_remote_code


def test_the_papers_models_stand_at_table_7s_settings_and_leave_their_code_off():
    for model in SCRIPT["PAPER_MODELS"]:
        own = {name: text for name, text in ALL.items() if model.file in name}
        settings = sorted(
            (c.sample_client_num, c.client_num) for c in (config.load(CONFIGS / n).federate for n in own)
        )
        assert settings == [(2, 10), (4, 10), (5, 20), (10, 30)]
        for name, text in own.items():
            assert "    trust_remote_code: False\n" in text and "docs/models.md" in text
            as_ours = name.replace(f"_{model.file}", "")
            theirs, ours = (config.to_mapping(config.load(CONFIGS / n)) for n in (name, as_ours))
            theirs.pop("model"), ours.pop("model")
            theirs["federate"].pop("method"), ours["federate"].pop("method")
            assert theirs == ours  # the model is what differs


def test_levels_are_the_papers():
    args = {Path(name).stem: config.load(CONFIGS / name).scenario_args for name in ALL if name.startswith("hateful")}
    assert [args[f"aligned_a{a}"]["alpha"] for a in ("50", "10", "05")] == [5.0, 1.0, 0.5]
    assert [args[f"missing_b{b}"]["beta"] for b in (30, 40, 50)] == [0.3, 0.4, 0.5]
    assert [args[f"cross_{x}"]["image_clients"] for x in ("i3t7", "i5t5", "i7t3")] == [3, 5, 7]
    assert [args[f"hybrid_p{p}"]["p"] for p in (80, 70, 60)] == [0.8, 0.7, 0.6]


def test_presets_are_found_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_config("configs/hateful_memes/aligned_a05.yaml") == CONFIGS / "hateful_memes/aligned_a05.yaml"
    assert find_config("medical/cross_i3t7") == CONFIGS / "medical/cross_i3t7.yaml"


def test_tiny_swaps_the_model_and_nothing_that_is_measured():
    path = CONFIGS / "crisismmd/hybrid_p60.yaml"
    tiny = config.load(path, TINY)
    assert (tiny.model.fedmllm.path, tiny.use_gpu) == ("tiny", False)
    assert tiny.data == config.load(path).data
    assert tiny.federate == config.load(path).federate


def test_the_corrected_preset_is_the_main_one_with_the_switches():
    plain, corrected = (config.load(CONFIGS / f"cross_i3t7{end}.yaml") for end in ("", "_corrected"))
    there, here = config.settings(plain), config.settings(corrected)
    assert {name: value for name, value in here.items() if there.get(name) != value} == {
        "fedmllm.label_prior": 1.0,
        "fedmllm.sampler": "modality",
        "fedmllm.stand_ins.use": "auto",
        "fedmllm.aggregation.client_weights": "balanced",
    }
    assert not there.keys() - here.keys()
