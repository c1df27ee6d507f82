"""What a command line may say over a configuration, and what is said of words that are no key."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from short_runs import CONFIGS, REPOSITORY

from fs_fedmllm import config as schema
from fs_fedmllm.cli import build_parser, main
from fs_fedmllm.commands.output import print_document
from fs_fedmllm.config import override_pairs
from fs_fedmllm.config.common_names import BESIDE, COMMON_NAMES, meant_key
from fs_fedmllm.config.reference import choices_of
from fs_fedmllm.errors import ConfigError


def test_both_forms_can_be_mixed_and_values_may_hold_signs() -> None:
    words = ["seed=7", "eval.freq", "5", "data.root=/a=b", "expname", "x=y", "fedmllm.template="]
    assert override_pairs(words) == [
        ("seed", "7"), ("eval.freq", "5"), ("data.root", "/a=b"), ("expname", "x=y"), ("fedmllm.template", ""),
    ]  # fmt: skip
    mixed = schema.load(CONFIGS / "cross_i3t7.yaml", ["seed=7", "eval.freq", "5", "client_3.train.optimizer.lr=0.5"])
    pairs = ["seed", "7", "eval.freq", "5", "client_3.train.optimizer.lr", "0.5"]
    assert mixed == schema.load(CONFIGS / "cross_i3t7.yaml", pairs)
    assert mixed.fedmllm.clients == {"client_3": {"train": {"optimizer": {"lr": 0.5}}}}


@pytest.mark.parametrize("words", [["seed"], ["eval.freq=5", "seed"], ["seed", "=", "7"], ["seed=", "7"]])
def test_a_key_without_a_value_is_told(words: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"has no value\. Write key=value or key value"):
        override_pairs(words)


def test_every_word_of_other_tools_means_a_key_that_there_is() -> None:
    known = schema.known_keys()
    assert set(COMMON_NAMES.values()) <= set(known)
    for word in BESIDE:
        assert COMMON_NAMES[word] == "train.local_update_steps"
    for option, key in (
        ("--rounds", "federate.total_round_num"),
        ("--num-clients=4", "federate.client_num"),
        ("--seed", "seed"),
        ("-lr", "train.optimizer.lr"),
        ("--federate.method", "federate.method"),
        ("--weight-decay", "fedmllm.train.weight_decay"),
        ("--enabled", ""),  # several keys end so
        ("--no-such-thing", ""),
    ):
        assert meant_key(option, known) == key, option


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "x.yaml", "--rounds", "3"], "federate.total_round_num=3"),
        (["plan", "x.yaml", "--seed=7", "--lr", "0.1"], "seed=7 train.optimizer.lr=0.1"),
        (["data", "show", "x.yaml", "--epochs", "2"], "train.local_update_steps=2 train.batch_or_epoch=epoch"),
        (["sweep", "x.yaml", "--output-dir", "there"], "outdir=there"),
        (["server", "x.yaml", "--rounds"], "federate.total_round_num=..."),
    ],
)
def test_an_option_that_is_a_key_is_answered_with_the_key(capsys, words: list[str], said: str) -> None:
    assert main(words) == 2
    told = capsys.readouterr()
    assert told.out == "" and f"written without dashes, {said}. fs-fedmllm config" in told.err
    assert told.err.count("\n") == 1


@pytest.mark.parametrize("words", [["run", "x.yaml", "--seed", "1", "--foo"], ["compare", "a", "b", "--seed", "7"]])
def test_other_options_are_told_with_the_usage(capsys, words: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2 and "unrecognized arguments" in capsys.readouterr().err


def test_every_command_that_takes_overrides_takes_both_forms(tmp_path: Path) -> None:
    """By the table of commands: what is named overrides goes through the one reader of them."""
    from fs_fedmllm.cli import _leaves

    found = [c.prog for c in _leaves(build_parser()) if any(a.dest == "overrides" for a in c._actions)]
    assert len(found) >= 11
    for name in ("run", "plan", "config", "sweep", "server", "client", "data check", "data show", "data split"):
        assert f"fs-fedmllm {name}" in found


def test_config_and_data_verbs_with_both_forms(capsys, tmp_path: Path) -> None:
    assert main(["config", "configs/cross_i3t7.yaml", "seed=7", "eval.freq", "5"]) == 0
    assert "seed: 7" in capsys.readouterr().out
    preset = str(CONFIGS / "cross_i3t7.yaml")
    assert main(["data", "split", preset, "federate.client_num=3", "data.splitter_args", "[{image_clients: 1}]",
                 "--out", str(tmp_path / "split")]) == 0  # fmt: skip
    assert len(json.loads((tmp_path / "split" / "manifest.json").read_text())["clients"]) == 3


def test_the_licence_and_what_keys_may_be(capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--license"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert "Apache-2.0" in said.splitlines()[0] and "TERMS AND CONDITIONS" in said
    assert "fedavg" in choices_of("federate.method") and choices_of("use_gpu") == ["True", "False"]
    assert choices_of("seed") == choices_of("federate.none") == choices_of("none.of.these") == []


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("fs-fedmllm ru", {"run", "runs"}),
        ("fs-fedmllm run --en", {"--engine"}),
        ("fs-fedmllm run configs/cross_i3t7.yaml federate.method=fedy", {"federate.method=fedyogi"}),
        ("fs-fedmllm run configs/cross_i3t7.yaml fedmllm.hub.rep", {"fedmllm.hub.repo="}),
        ("fs-fedmllm plan configs/hateful_memes/hyb", None),
        ("fs-fedmllm data sp", {"split"}),
    ],
)
def test_a_shell_is_told_what_may_follow(line: str, offered: set[str] | None, tmp_path: Path) -> None:
    """Through argcomplete as a shell calls it, without torch."""
    pytest.importorskip("argcomplete")
    told = tmp_path / "offered"
    asked = {"_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line)), "COMP_TYPE": "9"}
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), **asked, "_ARGCOMPLETE_STDOUT_FILENAME": str(told)}
    code = (
        "import sys, os, atexit\n"
        "end = os._exit\n"
        "def said(code):\n"
        "    open('heavy', 'w').write(str(sorted({'torch', 'numpy', 'transformers'} & set(sys.modules))))\n"
        "    end(code)\n"
        "os._exit = said\n"
        "from fs_fedmllm.cli import main\n"
        "main([])\n"
    )
    subprocess.run([sys.executable, "-c", code], env=environment, cwd=tmp_path, check=True, timeout=300)
    words = {word.strip() for word in told.read_text().split("\013")}
    if offered is None:
        assert len(words) == 3 and all(word.startswith("configs/hateful_memes/hybrid") for word in words)
    else:
        assert words == offered
    assert (tmp_path / "heavy").read_text() == "[]"


def test_what_else_is_printed_stands_beside_a_document(capsys, monkeypatch, tmp_path: Path) -> None:
    """Some libraries print when they are imported."""
    from fs_fedmllm.runs import listing

    def noisy(folder: Path) -> list[object]:
        print("a library speaks")
        return []

    monkeypatch.setattr(listing, "list_runs", noisy)
    assert main(["runs", str(tmp_path), "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out) == [] and said.err == "a library speaks\n"
    assert main(["runs", str(tmp_path)]) == 0
    said = capsys.readouterr()
    assert said.out.startswith("a library speaks\nno runs below") and said.err == ""


def test_a_document_moves_no_cursor(capsys) -> None:
    """Names of clients and labels stand in documents, which people print to a terminal too."""
    value = {"name": "a\x1b[2J\x9b31m\u202eb", "é": "ü 🩹\ud83d"}
    print_document(json.dumps(value, ensure_ascii=False, indent=2))
    said = capsys.readouterr().out
    assert json.loads(said) == value and "".join(said.split("\n")).isprintable() and "ü 🩹" in said


@pytest.mark.parametrize(
    "words",
    [
        ["data", "show", "x.yaml", "-n", "-1"], ["data", "show", "x.yaml", "--skip", "-1"],
        ["data", "check", "x.yaml", "--most", "-5"], ["data", "plot", "x.yaml", "--rows", "0"],
        ["sweep", "x.yaml", "--threads", "0"], ["sweep", "x.yaml", "--workers", "-1"],
    ],
)  # fmt: skip
def test_a_count_that_means_nothing_is_refused(capsys, words: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2 and f"{words[-1]} is below" in capsys.readouterr().err
