"""The command line: what it prints, and that bad input ends in one paragraph, exit code 2 and no traceback."""

from __future__ import annotations

import importlib
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from short_runs import CONFIGS, REPOSITORY, SHORT

from fs_fedmllm import __version__
from fs_fedmllm.cli import main

Refused = Callable[..., str]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(REPOSITORY)}


def paragraph(stderr: str) -> str:
    """The error: one paragraph at the end of stderr."""
    assert "Traceback" not in stderr
    before, mark, said = stderr.rpartition("fs-fedmllm: ")
    assert mark and (not before or before.endswith("\n"))
    assert said.strip() and "\n" not in said.strip()
    return said.strip()


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Refused:
    """Run a preset with overrides in this process and return the error's paragraph."""

    def run(*words: str, preset: str | Path = CONFIGS / "cross_i3t7.yaml") -> str:
        arguments = ["run", str(preset), "--engine", "embedded", *SHORT, "outdir", str(tmp_path / "exp"), *words]
        assert main(arguments) == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        return paragraph(printed.err)

    return run


# --- bad configuration ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("seeed", "1"), "unknown key 'seeed'; did you mean 'seed'?"),
        (("federate.methd", "fedavg"), "did you mean 'federate.method'?"),
        (("wandb.use", "True"), "which only FederatedScope's monitor writes to"),
        (("data.splitter_args", "[{image_clients: 3, text_clients: 7}]", "federate.client_num", "12"),
         "3 image + 7 text clients"),
        (("federate.sample_client_num", "11"), "which is above federate.client_num (10)"),
        (("seed", "seven"), "seed must be a whole number"),
        (("seed",), "come in pairs"),
        (("federate.method", "fedadagard"), "did you mean 'fedadagrad'?"),
        (("federate.method", "fednova"), "not one of fedavg"),
        (("fedmllm.switches.fedavgg", "mean"), "did you mean 'fedavg'?"),
        (("eval.best_res_update_round_wise_key", "val_f1"), "no evaluation has a metric 'f1'"),
        (("federate.mode", "distributed"), "must be standalone"),
    ],
)  # fmt: skip
def test_bad_configurations(refused: Refused, words: tuple[str, ...], said: str) -> None:
    assert said in refused(*words)


def test_broken_yaml_is_told_with_its_line(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "broken.yaml").write_text("seed: 1\nfederate: {method: fedavg\n")
    assert "not valid YAML at line" in refused(preset=tmp_path / "broken.yaml")
    assert "No configuration 'absent.yaml'" in refused(preset="absent.yaml")


# --- bad data and scenarios -----------------------------------------------------------------------------------------


def own_data(folder: Path, change: Callable[[list[dict[str, object]]], None] | None = None) -> list[str]:
    """A small data set in the user's own format, and the overrides that select it."""
    from PIL import Image

    folder.mkdir()
    rows: list[dict[str, object]] = []
    for i in range(24):
        Image.new("L", (32, 32), color=10 * i).save(folder / f"{i}.png")
        split = ("train", "train", "val", "test")[i % 4]
        rows.append({"id": f"row{i}", "image": f"{i}.png", "text": f"note {i}", "label": i % 8, "split": split})
    if change is not None:
        change(rows)
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [
        *("data.type", "own", "data.root", str(folder), "fedmllm.data", "{template: digits_triage}"),
        *("federate.client_num", "2", "federate.sample_client_num", "2"),
        *("data.splitter_args", "[{alpha: 100.0, image_clients: 1, text_clients: 1}]"),
    ]


def test_ones_own_small_data_set_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What the next tests spoil is good to begin with."""
    words = [*SHORT, "outdir", str(tmp_path / "exp"), *own_data(tmp_path / "data")]
    assert main(["run", str(CONFIGS / "cross_i3t7.yaml"), "--engine", "embedded", *words]) == 0
    assert "adapter sha256" in capsys.readouterr().out


def test_a_missing_image_is_told_with_its_file_and_row(refused: Refused, tmp_path: Path) -> None:
    words = own_data(tmp_path / "data", lambda rows: rows[5].update(image="absent.png"))
    said = refused(*words)
    assert "absent.png does not exist" in said and "data.jsonl:6" in said


def test_an_unreadable_image_is_told_with_its_file_and_row(refused: Refused, tmp_path: Path) -> None:
    words = own_data(tmp_path / "data")
    for i in range(24):
        (tmp_path / "data" / f"{i}.png").write_bytes(b"not an image")
    said = refused(*words)
    assert ".png" in said and "data.jsonl:" in said


def test_a_label_outside_the_options_is_told_with_its_row(refused: Refused, tmp_path: Path) -> None:
    said = refused(*own_data(tmp_path / "data", lambda rows: rows[6].update(label=8)))
    assert "data.jsonl:7" in said and "8" in said


def test_a_scenario_that_leaves_a_client_empty(refused: Refused, tmp_path: Path) -> None:
    assert "use at most 2400 clients" in refused("federate.client_num", "2500", "data.splitter_args",
                                                 "[{alpha: 0.5, image_clients: 3}]")  # fmt: skip

    def one_image_left(rows: list[dict[str, object]]) -> None:
        for row in rows[1:]:
            row["image"] = None

    words = own_data(tmp_path / "data", one_image_left)
    words[-1] = "[{alpha: 100.0, image_clients: 3}]"
    words += ["federate.client_num", "4"]
    assert "would keep none of its" in refused(*words)


def test_unknown_data_sets_options_and_templates(refused: Refused) -> None:
    assert "did you mean 'digits_triage'?" in refused("data.type", "digits_triag")
    assert "has no option 'sed'; did you mean 'seed'?" in refused("fedmllm.data", "{sed: 1}")
    assert "No prompt template 'absent'" in refused("fedmllm.template", "absent")
    assert "is not a folder" in refused("data.type", "hateful_memes", "data.root", "absent")


# --- bad models and files -------------------------------------------------------------------------------------------


def test_a_model_without_language_layers_at_the_expression(refused: Refused) -> None:
    said = refused("model.fedmllm.lora.target", r".*decoder\.blocks\.(\d+)\.attention")
    assert "No language layer of Llava" in said and "model.fedmllm.lora.target" in said
    assert "not a valid regular expression" in refused("model.fedmllm.lora.target", "((")


def test_an_empty_layer_mask(refused: Refused) -> None:
    said = refused("fedmllm.regularizer.type", "adaptive", "fedmllm.regularizer.skip_layers", "6")
    assert "leaves no layer" in said and "Use at most 5" in said


def test_a_model_that_is_not_there(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "Cannot load the model" in refused("model.fedmllm.path", str(tmp_path / "empty"))


def test_files_that_cannot_be_read_or_written(refused: Refused, tmp_path: Path) -> None:
    assert "cannot be read as a safetensors adapter" in refused("federate.restore_from", str(tmp_path / "absent"))
    assert "cannot be read as a safetensors adapter" in refused("federate.restore_from", str(tmp_path))
    (tmp_path / "file").write_text("")
    assert "cannot be written: Not a directory" in refused("outdir", str(tmp_path / "file"))
    assert "may hold letters" in refused("expname", "../elsewhere")


def test_a_mere_folder_named_federatedscope_is_no_federatedscope(tmp_path: Path, monkeypatch) -> None:
    from fs_fedmllm.hosts.federatedscope.checkout import is_importable

    (tmp_path / "federatedscope").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert not is_importable()
    (tmp_path / "federatedscope" / "__init__.py").write_text("")
    importlib.invalidate_caches()
    assert is_importable()


# --- what it prints -------------------------------------------------------------------------------------------------


def test_config_explains_every_key_and_resolves_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    import yaml

    assert main(["config"]) == 0
    explained = capsys.readouterr().out
    assert "fedmllm.regularizer.gamma_max (float, default 0.1)" in explained
    assert main(["config", "configs/cross_i3t7.yaml", "seed", "7", "fedmllm.server.lr", "-1"]) == 0
    resolved = yaml.safe_load(capsys.readouterr().out)
    assert resolved["seed"] == 7 and resolved["federate"]["client_num"] == 10
    assert resolved["fedmllm"]["train"]["lr_horizon"] == 50


def test_every_command_takes_quiet_and_verbose() -> None:
    from fs_fedmllm.cli import _leaves, build_parser

    commands = list(_leaves(build_parser()))
    assert len(commands) > 20
    for command in commands:
        flags = {flag for action in command._actions for flag in action.option_strings}
        assert {"-q", "--quiet", "-v", "--verbose"} <= flags, command.prog


def test_quiet_silences_warnings_and_not_errors(
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A refused update is said once, and with --quiet in results.json alone."""
    from fs_fedmllm.errors import UpdateError
    from fs_fedmllm.rounds.server import ServerSide

    take = ServerSide.take

    def refuse(self, current, update) -> None:
        if update.client > 5:
            raise UpdateError(f"Client {update.client}: not finite.")
        take(self, current, update)

    monkeypatch.setattr(ServerSide, "take", refuse)
    words = ["federate.total_round_num", "1", "federate.sample_client_num", "10", "outdir", str(tmp_path)]
    for name, expected in (("loud", 5), ("quiet", 0)):
        options = ["--engine", "embedded"] + (["-q"] if name == "quiet" else [])
        assert main(["run", str(CONFIGS / "cross_i3t7.yaml"), *options, *SHORT, *words, "expname", name]) == 0
        assert len([record for record in caplog.records if "refused" in record.message]) == expected
        said = capsys.readouterr().err  # the records' own way there is pytest's here
        assert "refused" not in said and ("round 1:" in said) == (name == "loud")
        caplog.clear()
        assert len(json.loads((tmp_path / name / "results.json").read_text())["refused"]) == 5
    assert main(["run", "absent.yaml", "-q"]) == 2
    assert "absent.yaml" in paragraph(capsys.readouterr().err)


def test_overrides_may_stand_around_options(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """FederatedScope takes overrides anywhere; so do we."""
    preset = str(CONFIGS / "aligned_a05.yaml")
    words = [*SHORT, "federate.total_round_num", "1", "outdir", str(tmp_path)]
    assert main(["run", preset, "expname", "around", "--engine", "embedded", *words]) == 0
    table = capsys.readouterr().out
    for part in ("round 1", "bytes sent:", "time:", "training", "evaluation", "everything else", "run folder:"):
        assert part in table
    assert (tmp_path / "around" / "results.json").is_file()


@pytest.mark.parametrize("words", [["run"], ["fly"], [], ["run", "x.yaml", "--engin", "both"], ["config", "--flat"]])
def test_a_wrong_command_line_ends_with_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert "usage: fs-fedmllm" in capsys.readouterr().err


def test_plug_refuses_what_is_not_federatedscope(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for command in (["plug"], ["plug", "--status"], ["unplug"]):
        assert main([*command, str(tmp_path)]) == 2
        assert "not a FederatedScope checkout" in paragraph(capsys.readouterr().err)


# --- as a process ---------------------------------------------------------------------------------------------------


def run_process(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fs_fedmllm", *words]
    return subprocess.run(command, cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, check=False)


def test_a_process_ends_with_2_and_a_paragraph(tmp_path: Path) -> None:
    """From a folder that has no ``configs``: the preset that ships is found by name."""
    done = run_process("run", "configs/cross_i3t7.yaml", "--engine", "embedded", "seeed", "1", cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    assert "did you mean 'seed'?" in paragraph(done.stderr)
    done = run_process("run", "absent.yaml", cwd=tmp_path)
    assert done.returncode == 2 and "No configuration 'absent.yaml'" in paragraph(done.stderr)


def test_version_and_help(tmp_path: Path) -> None:
    assert run_process("--version", cwd=tmp_path).stdout.strip() == __version__
    told = run_process("--help", cwd=tmp_path)
    assert told.returncode == 0 and all(word in told.stdout for word in ("run", "plug", "unplug", "config"))


@pytest.mark.parametrize("words", [["--help"], ["run", "--help"], ["config"], ["run", "configs/cross_i3t7.yaml", "x"]])
def test_help_and_configuration_errors_import_nothing_heavy(words: list[str], tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "import fs_fedmllm, fs_fedmllm.cli\n"
        "try: fs_fedmllm.cli.main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'peft', 'numpy', 'PIL', 'sklearn', 'federatedscope', 'pandas', 'tqdm'}\n"
        "print('HEAVY', sorted(heavy & set(sys.modules)))\n"
    )
    words = [*words, "--engine", "embedded"] if words[-1] == "x" else words
    command = [sys.executable, "-c", code, *words]
    done = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "HEAVY []"


def test_a_command_leaves_logging_as_it_found_it(capsys: pytest.CaptureFixture[str]) -> None:
    """Called from Python, a quiet command does not silence the next, and a verbose one leaves no handler."""
    loggers = [logging.getLogger(name) for name in ("fs_fedmllm", "fs_fedmllm.progress")]
    before = [(logger.level, list(logger.handlers)) for logger in loggers]
    for option in ("-q", "-v", "-v", "-q"):
        assert main(["config", option]) == 0
        assert [(logger.level, list(logger.handlers)) for logger in loggers] == before
    assert main(["run", "nowhere.yaml", "-q"]) == 2
    assert [(logger.level, list(logger.handlers)) for logger in loggers] == before
