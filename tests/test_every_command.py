"""Every command, by the table of commands: piped into a reader that goes, interrupted, and run from another folder."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from short_runs import REPOSITORY, SHORT

from fs_fedmllm.cli import _leaves, build_parser, main

PRESET = "configs/cross_i3t7.yaml"
SMALL = [*SHORT, "federate.total_round_num=1", "eval.freq=1", "fedmllm.eval.limit=8"]
#: What a command is tried with, in a folder with a finished run, a split, rows of one's own and a template.
COMMANDS: dict[str, list[str]] = {
    "init": ["my_data", "--yes"],
    "run": [PRESET, "--engine", "embedded", *SMALL, "expname=again"],
    "runs": [],
    "sweep": ["tables/table4.yaml", "--tiny", "--dry-run"],
    "report": ["exp/first", "--no-curves"],
    "plan": [PRESET, "--tiny"],
    "status": ["exp/first"],
    "certs init": ["--name", "trial", "--folder", "authority"],
    "data check": ["my_data", "template=digits_triage", "--no-decode"],
    "data split": [PRESET, "--out", "split"],
    "data export": [PRESET, "--format", "trl", "--out", "exported", "data.type=own", "data.root=my_data",
                    "fedmllm.data={template: digits_triage}", "federate.client_num=2", "federate.sample_client_num=2",
                    "data.splitter_args=[{alpha: 100.0, image_clients: 1}]"],
    "data show": [PRESET, "-n", "1"],
    "data plot": [PRESET, "--out", "plots"],
    "compare": ["exp/first", "exp/first/adapter"],
    "merge": ["exp/first", "--out", "merged"],
    "predict": ["exp/first", "--text", "three"],
    "evaluate": ["exp/first", "my_data", "template=digits_triage"],
    "push": ["exp/first", "owner/name", "--base-model", "a/b", "--dry-run", "release"],
    "config": [PRESET],
    "doctor": [],
}  # fmt: skip
#: Commands that need another program or site, and where they are tried: a server and clients talk for minutes
#: (tests/distributed), a judge is a service; NVFlare, FederatedScope and the audit have tests of their own.
ELSEWHERE = ("server", "client", "certs ", "judge", "nvflare", "plug", "unplug", "audit")
#: Those that load a model or draw pictures; a release is tried with all.
LONG = ("run", "plan", "data export", "data plot", "merge", "predict", "evaluate", "push", "doctor", "report")
EVERY = [pytest.param(name, marks=pytest.mark.slow) if name in LONG else name for name in COMMANDS]

#: A reader that has gone before the first byte, and Ctrl-C at the first word that a command says.
PIPED = (
    "import os, sys\n"
    "reading, writing = os.pipe(); os.close(reading); os.dup2(writing, 1)\n"
    "from fs_fedmllm.cli import main\n"
    "sys.exit(main(sys.argv[1:]))\n"
)
INTERRUPTED = (
    "import builtins, signal, sys\n"
    "from fs_fedmllm.cli import main\n"
    "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    "plain = builtins.print\n"
    "def interrupted(*words, **how):\n"
    "    builtins.print = plain\n"
    "    signal.raise_signal(signal.SIGINT)\n"
    "builtins.print = interrupted\n"
    "sys.exit(main(sys.argv[1:]))\n"
)


def names() -> list[str]:
    return [parser.prog.removeprefix("fs-fedmllm ") for parser in _leaves(build_parser())]


def test_every_command_is_in_the_table_or_tried_elsewhere() -> None:
    left = [name for name in names() if name not in COMMANDS and not name.startswith(ELSEWHERE)]
    assert not left, f"give {left} a line in COMMANDS"
    assert set(COMMANDS) <= set(names())


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that is not the repository's."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("elsewhere")
    (folder / "my_data").mkdir()
    rows = []
    for i in range(24):
        Image.new("L", (32, 32), color=10 * i).save(folder / "my_data" / f"{i}.png")
        split = ("train", "train", "val", "test")[i % 4]
        rows.append({"id": f"row{i}", "image": f"{i}.png", "text": f"note {i}", "label": i % 8, "split": split})
    (folder / "my_data" / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["run", PRESET, "--engine", "embedded", *SMALL, f"outdir={folder / 'exp'}", "expname=first", "-q"]
    assert main(words) == 0
    status = {"site": "server", "doing": "done", "round": 1, "rounds": 1, "updated": "now", "last_error": ""}
    (folder / "exp" / "first" / "status.json").write_text(json.dumps(status))
    return folder


@pytest.fixture
def go(place: Path, tmp_path: Path, forks) -> Callable[..., tuple[int, str]]:
    """Run a command as a process in a copy of the folder; its exit code and what it said on standard error."""

    def run(code: str, *words: str) -> tuple[int, str]:
        folder = tmp_path / "here"
        shutil.copytree(place, folder)
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "COLUMNS": "120"}
        done = forks.run(["-c", code, *words], folder, environment)
        return done.returncode, done.stderr

    return run


@pytest.mark.parametrize("name", EVERY)
def test_a_command_whose_reader_goes_ends_quietly(name: str, go: Callable[..., tuple[int, str]]) -> None:
    code, said = go(PIPED, *name.split(), *COMMANDS[name])
    assert code == 141 and "Traceback" not in said and "Broken pipe" not in said, said[-2000:]


@pytest.mark.parametrize("name", EVERY)
def test_an_interrupted_command_ends_with_130(name: str, go: Callable[..., tuple[int, str]]) -> None:
    code, said = go(INTERRUPTED, *name.split(), *COMMANDS[name])
    assert code == 130 and "Traceback" not in said, said[-2000:]
    assert said.rstrip().endswith("interrupted; the same command resumes from the last checkpoint."
                                  if name in ("run", "sweep") else "fs-fedmllm: interrupted.")  # fmt: skip


@pytest.mark.parametrize(
    ("name", "more"),
    [
        *(("run", ["--dry-run"]), ("status", []), ("runs", []), ("compare", [])),
        *(pytest.param(name, [], marks=pytest.mark.slow) for name in ("run", "plan", "evaluate")),
    ],
)
def test_json_is_one_document_on_standard_output(
    name: str, more: list[str], place: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch
) -> None:
    """And nothing else: what is told while it goes on is on standard error."""
    folder = tmp_path / "here"
    shutil.copytree(place, folder)
    monkeypatch.chdir(folder)
    assert main([*name.split(), *COMMANDS[name], *more, "--json", "-v"]) == 0
    told = json.loads(capfd.readouterr().out)
    assert isinstance(told, dict | list) and told
