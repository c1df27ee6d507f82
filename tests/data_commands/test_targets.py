"""The verbs of ``data`` take the same: a configuration, a folder of your own data, or a data set by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from fs_fedmllm.commands.targets import Rows, read_target
from fs_fedmllm.config import Config
from fs_fedmllm.errors import ConfigError

VQA, BY = "template=medical", "data.splitter_args=[{alpha: 100, by: site}]"


def test_every_verb_takes_a_folder(cli, own_vqa: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for words, said in (
        (["check", own_vqa, VQA], "0 errors"),
        (["show", own_vqa, VQA, "-n", 1], "--- train, row 1 of 60"),
        (["show", own_vqa, VQA, "-n", 1, "--client", 2, BY, "groups=[site]"], "--- client 2, row 1 of"),
        (["split", own_vqa, VQA, BY, "fedmllm.data.groups=[site]",
          "federate.client_num", 2, "--out", tmp_path / "split"], "written to"),
        (["plot", own_vqa, "template", "medical", "groups=[site]", BY,
          "--out", tmp_path / "plots"], "who_holds_what"),
    ):  # fmt: skip
        code, told = cli("data", *words)
        assert code == 0, told
        if "plot" not in words:
            assert said in told
    assert list((tmp_path / "plots").glob("*.png")) and (tmp_path / "split" / "client_2.json").is_file()


def test_every_verb_takes_a_data_set_by_name(cli, own_vqa: Path) -> None:
    for words in (["check", "own", own_vqa, "template", "medical"], ["show", "own", own_vqa, VQA, "-n", 1]):
        code, told = cli("data", *words)
        assert code == 0, told
    code, told = cli("data", "show", "digits_match", "seed=3", "-n", 1)
    assert code == 0 and "row 1 of" in told


def test_words_go_to_the_reader_or_to_the_run(own_vqa: Path) -> None:
    found = read_target(str(own_vqa), [VQA, "columns.text=note", "seed=5", "fedmllm.data.title=Ours", "fedmllm.prompt=augmented"])  # noqa: E501  # fmt: skip
    assert isinstance(found, Rows)
    assert found.options == {"template": "medical", "columns": {"text": "note"}, "title": "Ours"}
    assert found.keys == {"seed": 5, "fedmllm": {"prompt": "augmented"}}
    config = found.config()
    assert (config.seed, config.fedmllm.prompt, config.data.root) == (5, "augmented", str(own_vqa))
    assert config.fedmllm.data["title"] == "Ours" and config.federate.client_num == 4
    # an embedded set's own seed is its reader's
    found = read_target("digits_match", ["seed=3"])
    assert isinstance(found, Rows) and found.options == {"seed": 3} and not found.keys
    assert isinstance(read_target("configs/cross_i3t7.yaml", ["seed=3"]), Config)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["absent"], "No configuration 'absent'.* no folder 'absent' of your own data"),
        (["vqa_rad"], "needs the folder that it lies in: vqa_rad FOLDER"),
        (["own", "template=medical"], "needs the folder"),
        (["digits_match", "seed"], "has no value"),
    ],
)
def test_what_is_not_there_is_told(words: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        read_target(words[0], words[1:])


def test_an_unknown_option_of_a_folder_is_told_with_those_that_there_are(cli, own_vqa: Path) -> None:
    code, told = cli("data", "show", own_vqa, "templat=medical")
    assert code == 2 and "has no option 'templat'; did you mean 'template'?" in told
