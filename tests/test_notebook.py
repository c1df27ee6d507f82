"""examples/walkthrough.ipynb: its cells run from top to bottom without a kernel, with public names only."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest
from short_runs import REPOSITORY

import fs_fedmllm

NOTEBOOK = REPOSITORY / "examples" / "walkthrough.ipynb"


@pytest.fixture(scope="module")
def cells() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    return found


def test_it_is_a_notebook_without_outputs() -> None:
    book = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert (book["nbformat"], book["nbformat_minor"]) == (4, 5) and book["metadata"]["language_info"]["name"]
    assert len({cell["id"] for cell in book["cells"]}) == len(book["cells"])
    for cell in book["cells"]:
        assert cell["cell_type"] in ("markdown", "code") and all(isinstance(line, str) for line in cell["source"])
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None


def test_it_uses_the_public_names_only(cells) -> None:
    """Those of docs/python.md: nothing is imported from inside the package, and no private name is read."""
    for cell in cells:
        if cell["cell_type"] != "code":
            continue
        for node in ast.walk(ast.parse("".join(cell["source"]))):
            if isinstance(node, ast.ImportFrom):
                assert not str(node.module).startswith("fs_fedmllm")
            if isinstance(node, ast.Import):
                assert not any(alias.name.startswith("fs_fedmllm.") for alias in node.names)
            if isinstance(node, ast.Attribute):
                assert not node.attr.startswith("_")
                if isinstance(node.value, ast.Name) and node.value.id == "fs_fedmllm":
                    assert node.attr in fs_fedmllm.__all__


def test_its_links_lead_somewhere(cells) -> None:
    text = "".join(line for cell in cells if cell["cell_type"] == "markdown" for line in [*cell["source"], "\n"])
    targets = re.findall(r"\]\(([^)#]+)\)", text)
    assert targets and all((NOTEBOOK.parent / target).is_file() for target in targets)


#: A client's steps in a round: enough to see something, and for a test.
STEPS = ("train__local_update_steps=20", "train__local_update_steps=1")


def test_every_cell_runs(cells, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """In an empty folder, and with fewer steps: it splits, runs, plots and predicts."""
    matplotlib = pytest.importorskip("matplotlib", reason="the notebook plots: it needs the extra 'plot'")
    matplotlib.use("Agg")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "__main__"}
    assert sum("".join(cell["source"]).count(STEPS[0]) for cell in cells) == 1
    for number, cell in enumerate(cells):
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]).replace(*STEPS), f"{NOTEBOOK.name}[{number}]", "exec"), names)
    said = capsys.readouterr().out
    assert re.search(r"client 1: \d+ rows, \{'image': \d+\}", said) and "round 6: " in said
    assert said.count("right is") == 5
    result, axis = names["result"], names["axis"]
    assert [row["round"] for row in result.history] == [0, 2, 4, 6]
    assert [len(line.get_xdata()) for line in axis.get_lines()] == [4, 4]
    # The split of the first part is that of the run.
    ran = {int(client): sorted(record["rows"]) for client, record in result.manifest["clients"].items()}
    assert {client: sorted(row.id for row in rows) for client, rows in names["split"].clients.items()} == ran
    matplotlib.pyplot.close("all")
