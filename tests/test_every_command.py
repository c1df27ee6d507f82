"""Every command, by the table of commands: piped into a reader that goes, interrupted, and run from another folder."""

from __future__ import annotations

import builtins
import contextlib
import importlib.util
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from forks import Forks
from json_page import wrong
from short_runs import REPOSITORY, SHORT
from waiting import LONG as PATIENCE
from waiting import free_port, wait_until

from fs_fedmllm.cli import RESUMABLE, _leaves, build_parser, main
from fs_fedmllm.commands.run import results_json

PRESET = "configs/cross_i3t7.yaml"
SMALL = [*SHORT, "federate.total_round_num=1", "eval.freq=1", "fedmllm.eval.limit=8"]
NETWORK = ["fedmllm.network.insecure=True", "--address", "127.0.0.1:1"]
#: What a command is tried with, in a folder with a finished run, a split, rows of one's own and a template.
COMMANDS: dict[str, list[str]] = {
    "init": ["my_data", "--yes"],
    "run": [PRESET, "--engine", "embedded", *SMALL, "expname=again"],
    "runs": [],
    "sweep": ["tables/table4.yaml", "--tiny", "--dry-run"],
    "report": ["exp/first", "--no-curves"],
    "plan": [PRESET, "--tiny"],
    "server": [PRESET, *SMALL, *NETWORK],
    "client": [PRESET, "--id", "1", *SMALL, *NETWORK],
    "status": ["exp/first"],
    "nvflare job": [PRESET, "--out", "job", *SMALL],
    "nvflare site": ["workspace"],
    "nvflare submit": ["submitted", "--admin", "admin"],
    "nvflare status": ["an-id", "--admin", "admin"],
    "certs init": ["--name", "trial", "--folder", "authority"],
    "certs server": ["--folder", "certs", "--host", "localhost", "--out", "new"],
    "certs client": ["--folder", "certs", "--id", "2"],
    "certs request": ["--folder", "site", "--name", "trial", "--id", "3"],
    "certs sign": ["asked/client-3.csr", "--folder", "certs", "--id", "3"],
    "certs revoke": ["certs/client-1.crt", "--folder", "certs"],
    "certs show": ["--folder", "certs"],
    "data check": ["my_data", "template=digits_triage", "--no-decode"],
    "data split": [PRESET, "--out", "split"],
    "data export": [PRESET, "--format", "trl", "--out", "exported", "data.type=own", "data.root=my_data",
                    "fedmllm.data={template: digits_triage}", "federate.client_num=2", "federate.sample_client_num=2",
                    "data.splitter_args=[{alpha: 100.0, image_clients: 1}]"],
    "data show": [PRESET, "-n", "1"],
    "data plot": [PRESET, "--out", "plots"],
    "judge": ["exp/answers", "--model", "judge-2024-08-06", "--base-url", "http://127.0.0.1:1/v1",
              "--max-total-tokens", "1"],
    "audit privacy": ["exp/first", "--limit", "20"],
    "compare": ["exp/first", "exp/first/adapter"],
    "merge": ["exp/first", "--out", "merged"],
    "predict": ["exp/first", "--text", "three"],
    "evaluate": ["exp/first", "my_data"],
    "push": ["exp/first", "owner/name", "--base-model", "a/b", "--dry-run", "release"],
    "config": [PRESET],
    "doctor": [],
    "plug": ["checkout", "--status"],
    "unplug": ["checkout"],
}  # fmt: skip
#: Those that load a model or draw pictures; a release is tried with all, as processes of their own.
LONG = ("run", "plan", "data export", "data plot", "merge", "predict", "evaluate", "push", "doctor", "report",
        "audit privacy")  # fmt: skip
QUICK = [name for name in COMMANDS if name not in LONG]
#: Of the quick ones those that are processes too, for what an interpreter does when it ends.
PROCESSES = ["config", *(pytest.param(name, marks=pytest.mark.slow) for name in LONG)]
#: What a command needs beside the core.
NEEDS = {"certs": "cryptography", "server": "grpc", "client": "grpc", "judge": "openai", "nvflare site": "nvflare"}

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


def leaves() -> dict[str, Any]:
    return {parser.prog.removeprefix("fs-fedmllm "): parser for parser in _leaves(build_parser())}


def test_every_command_is_in_the_table() -> None:
    left = sorted(set(leaves()) - set(COMMANDS))
    assert not left, f"give {left} a line in COMMANDS"
    assert set(COMMANDS) == set(leaves()) and set(LONG) <= set(COMMANDS)


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
    _beside(folder)
    return folder


def _beside(folder: Path) -> None:
    """What the commands of other programs and sites look at, as far as they look: nobody is called."""
    answers = folder / "exp" / "answers"
    answers.mkdir()
    shutil.copy(folder / "exp" / "first" / "resolved_config.yaml", answers)
    line = {"id": "a", "shown": "both", "correct": True, "question": "What?", "reference": "a dot", "answer": "a dot"}
    (answers / "predictions.jsonl").write_text(json.dumps(line) + "\n")
    (folder / "workspace" / "startup").mkdir(parents=True)
    (folder / "workspace" / "local").mkdir()
    (folder / "workspace" / "startup" / "fed_client.json").write_text("{}")
    (folder / "workspace" / "local" / "resources.json").write_text("{}")
    (folder / "submitted").mkdir()
    (folder / "submitted" / "meta.json").write_text("{}")
    from fs_fedmllm.hosts.federatedscope.checkout import LANDMARKS

    for name in LANDMARKS:
        (folder / "checkout" / "federatedscope" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "checkout" / "federatedscope" / name).touch()
    if importlib.util.find_spec("cryptography") is not None:
        from fs_fedmllm.distributed.authority import create_authority, create_identity, create_request

        create_authority(folder / "certs", "trial", 30)
        create_identity(folder / "certs", 1, (), 30, folder / "certs")
        create_request(folder / "asked", "trial", 3, ())


@pytest.fixture
def here(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the folder, to be in; and stand-ins for what commands would talk to for minutes, or never reach."""
    folder = tmp_path / "here"
    shutil.copytree(place, folder)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    from fs_fedmllm.hosts.federatedscope import import_path
    from fs_fedmllm.hosts.nvflare import admin

    monkeypatch.setattr(import_path, "path_file", lambda: folder / import_path.PATH_FILE)
    monkeypatch.setattr(admin, "session", lambda kit: contextlib.nullcontext(None))
    monkeypatch.setattr(admin, "submit", lambda opened, job: "an-id")
    monkeypatch.setattr(admin, "standing", lambda opened, job: ("RUNNING", {}))
    if importlib.util.find_spec("grpc") is not None:
        from fs_fedmllm.distributed import run_site

        monkeypatch.setattr(run_site, "run_server", lambda *_, **__: "done")
        monkeypatch.setattr(run_site, "run_client", lambda *_, **__: "done")
    return folder


@pytest.fixture
def needed(request: pytest.FixtureRequest) -> None:
    """Skip a command whose extra is not installed."""
    name = request.getfixturevalue("name")
    module = next((own for command, own in NEEDS.items() if name.startswith(command)), "json")
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"NOT RUN: no {module}, which {name} needs")


@pytest.mark.parametrize("name", QUICK)
def test_a_command_whose_reader_goes_ends_quietly(
    name: str, needed: None, here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as gone:
        monkeypatch.setattr(sys, "stdout", gone)
        code = main([*name.split(), *COMMANDS[name]])
        monkeypatch.undo()
    said = capfd.readouterr().err
    assert code == 141 and "Traceback" not in said and "Broken pipe" not in said, said[-2000:]


@pytest.mark.parametrize("name", QUICK)
def test_an_interrupted_command_ends_with_130(
    name: str, needed: None, here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    plain = builtins.print

    def interrupted(*_: object, **__: object) -> None:
        monkeypatch.setattr(builtins, "print", plain)
        raise KeyboardInterrupt

    monkeypatch.setattr(builtins, "print", interrupted)
    assert main([*name.split(), *COMMANDS[name]]) == 130
    _ends_as_it_should(name, capfd.readouterr().err)


def _ends_as_it_should(name: str, said: str) -> None:
    assert "Traceback" not in said, said[-2000:]
    goes_on = "; the same command resumes from the last checkpoint" if name in RESUMABLE else ""
    assert said.rstrip().splitlines()[-1] == f"fs-fedmllm: interrupted{goes_on}."


@pytest.fixture
def go(here: Path, forks: Forks) -> Callable[..., tuple[int, str]]:
    """Run a command as a process in a copy of the folder; its exit code and what it said on standard error."""

    def run(code: str, *words: str) -> tuple[int, str]:
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "COLUMNS": "120"}
        done = forks.run(["-c", code, *words], here, environment)
        return done.returncode, done.stderr

    return run


@pytest.mark.parametrize("name", PROCESSES)
def test_a_process_whose_reader_goes_ends_quietly(name: str, go: Callable[..., tuple[int, str]]) -> None:
    code, said = go(PIPED, *name.split(), *COMMANDS[name])
    assert code == 141 and "Traceback" not in said and "Broken pipe" not in said, said[-2000:]


@pytest.mark.parametrize("name", PROCESSES)
def test_an_interrupted_process_ends_with_130(name: str, go: Callable[..., tuple[int, str]]) -> None:
    code, said = go(INTERRUPTED, *name.split(), *COMMANDS[name])
    assert code == 130
    _ends_as_it_should(name, said)


def test_a_server_that_waits_for_its_clients_is_interrupted(tmp_path: Path, forks: Forks) -> None:
    """It stops at its next step, with 0: docs/deployment.md. No traceback, and the status is as its page says."""
    pytest.importorskip("grpc", reason="NOT RUN: no grpc")
    address = f"127.0.0.1:{free_port()}"
    words = ["server", PRESET, *SMALL, "fedmllm.network.insecure=True", "--address", address, "expname=ward"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "COLUMNS": "120"}
    log = tmp_path / "log.txt"
    process = forks.start(["-m", "fs_fedmllm", *words], tmp_path, environment, log)
    file = tmp_path / "exp" / "ward" / "status.json"
    wait_until(lambda: process.poll() is not None or file.is_file(), says=log.read_text)
    assert wrong(json.loads(file.read_text()), "status") == []
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE) == 0, log.read_text()
    said = log.read_text()
    assert "Traceback" not in said and said.endswith("stopped after round 0; the same command resumes the run\n")


def with_json() -> list[str]:
    """Commands that have ``--json``, those of ``run`` and ``predict`` among them."""
    return [name for name, parser in leaves().items() if any("--json" in a.option_strings for a in parser._actions)]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in LONG else name for name in with_json()]
)
def test_json_is_one_document_on_standard_output(
    name: str, needed: None, here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """And nothing else: what is told while it goes on is on standard error."""
    assert main([*name.split(), *COMMANDS[name], "--json", "-v"]) in (0, 1)
    told = json.loads(capfd.readouterr().out)
    assert isinstance(told, dict | list) and told


def test_the_json_of_a_dry_run_is_one_document(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["run", *COMMANDS["run"], "--dry-run", "--json", "-v"]) == 0
    told = json.loads(capfd.readouterr().out)
    assert told["passed"] is True and wrong(told, "run --dry-run") == []


def test_the_results_of_a_run_are_as_the_page_of_json_says(place: Path) -> None:
    results = json.loads((place / "exp" / "first" / "results.json").read_text())
    assert wrong(json.loads(results_json(results, place)), "run") == []
