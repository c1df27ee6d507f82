"""docs/tutorial.md, run from top to bottom as a reader would, in an empty folder."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from short_runs import REPOSITORY

from fs_fedmllm.cli import main

TUTORIAL = REPOSITORY / "docs" / "tutorial.md"
#: A fenced block and what the line above it says to the test; readers see both in the source, the first on the page.
BLOCK = re.compile(r"(?:<!-- test: (.*?) -->\n)?^```(bash|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_every_block_of_the_tutorial_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    ran = 0
    for told, language, source in BLOCK.findall(TUTORIAL.read_text(encoding="utf-8")):
        if told == "not run":
            continue
        more = shlex.split(told.removeprefix("adds ")) if told else []
        if language == "python":
            exec(compile(source, "tutorial", "exec"), names)
            ran += 1
            continue
        for line in source.splitlines():
            program, *words = shlex.split(line, comments=True)
            assert program == "fs-fedmllm"
            # On one process: forked turns are tested elsewhere.
            single = ["fedmllm.workers", "1"] if words[0] == "run" else []
            assert main([*words, *more, *single]) == 0, line
            ran += 1
    assert ran >= 10
    said = capsys.readouterr().out
    for expected in ("traffic", "best by val_macro_f1", "same base", "%", "read back against adapter", "card"):
        assert expected in said, expected
    assert (tmp_path / "card" / "README.md").is_file() and (tmp_path / "merged" / "model.safetensors").is_file()


def test_the_blocks_of_the_migration_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sources = re.findall(r"^```python\n(.*?)^```$", (REPOSITORY / "docs" / "migration.md").read_text(), re.M | re.S)
    assert len(sources) == 1
    exec(compile(sources[0], "migration", "exec"), {})
    assert '"answer": "4"' in (tmp_path / "train.jsonl").read_text()


def test_the_keys_that_the_pages_name_exist() -> None:
    """Every ``section.key`` in back-ticks on the pages for newcomers is one of the schema."""
    from fs_fedmllm import config as schema
    from fs_fedmllm.data.registry import NAMES, known_options

    known = set(schema.known_keys())
    known |= {f"fedmllm.data.{option}" for name in NAMES for option in known_options(name)}
    sections = {key.rpartition(".")[0] for key in known} | {"fedmllm", "model.fedmllm"}
    sections |= {".".join(section.split(".")[:n]) for section in sections for n in (1, 2, 3)}
    for name in ("migration", "hub", "planning", "scenarios", "strategies", "aggregators", "engines", "tutorial"):
        text = (REPOSITORY / "docs" / f"{name}.md").read_text(encoding="utf-8")
        for found in re.findall(r"`((?:federate|data|model|train|eval|fedmllm)\.[a-z_.]+[a-z_])", text):
            if not found.endswith((".json", ".yaml")):
                assert found in known or found in sections, (name, found)
