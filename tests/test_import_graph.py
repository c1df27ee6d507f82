"""The import graph of the package: no circle, and arrows only upward in the table of docs/architecture.md."""

from __future__ import annotations

import ast
import importlib
import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGE = REPOSITORY / "fs_fedmllm"
#: The package's own file names its public face for type checkers; it imports none of it.
FACE = "fs_fedmllm"


def module_name(file: Path) -> str:
    parts = file.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(file): file for file in sorted(PACKAGE.rglob("*.py"))}


def imported_by(source: str) -> set[str]:
    """Modules of ours that a file imports anywhere: on top, inside functions and for type checkers."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == FACE:
            assert not node.level
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (whole & MODULES.keys()) or {str(node.module)}
            if (whole & MODULES.keys()) and not whole <= MODULES.keys():
                found.add(str(node.module))
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] == FACE}
    return found


def graph() -> dict[str, set[str]]:
    return {name: imported_by(file.read_text(encoding="utf-8")) for name, file in MODULES.items() if name != FACE}


def order() -> list[set[str]]:
    """The layers of the table, from the ground up."""
    page = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")
    table = page.split("## Layers", 1)[1].split("\n## ", 1)[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    return [set(re.findall(r"`(\w+)/?`", row)) for row in rows]


def layer(module: str) -> str:
    return module.split(".")[1] if "." in module else module


def test_no_module_imports_itself_by_way_of_others() -> None:
    try:
        list(TopologicalSorter(graph()).static_order())
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_every_room_is_in_the_table_once() -> None:
    named = [name for row in order() for name in row]
    assert sorted(named) == sorted({layer(name) for name in MODULES} - {FACE})


def test_arrows_point_to_rooms_above() -> None:
    height = {name: index for index, row in enumerate(order()) for name in row}
    wrong = [
        f"{name} -> {target}"
        for name, targets in graph().items()
        for target in targets
        if target == FACE or height[layer(target)] > height[layer(name)]
    ]
    assert wrong == []


@pytest.mark.parametrize("host", ["federatedscope", "nvflare"])
def test_only_its_host_imports_a_host(host: str) -> None:
    named = re.compile(rf"^\s*(?:from|import) {host}", re.MULTILINE)
    guilty = [name for name, file in MODULES.items() if named.search(file.read_text(encoding="utf-8"))]
    assert {".".join(name.split(".")[1:3]) for name in guilty} == {f"hosts.{host}"}


def test_what_the_page_names_is_in_the_tree() -> None:
    """Modules and folders in the layer of their row; types anywhere in the package."""
    page = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")
    table = page.split("## Layers", 1)[1].split("\n## ", 1)[0]
    missing = []
    for line in (line for line in table.splitlines() if line.startswith("| `")):
        _, layers, what, *_ = line.split("|")
        folders = [PACKAGE / name for name in re.findall(r"`(\w+)/?`", layers)]
        there = {path.stem for folder in folders for path in folder.rglob("*")}
        missing += [f"{layers}: {name}" for name in re.findall(r"`([a-z_]+)/?`", what) if name not in there]
    assert missing == []
    defined = {
        node.name
        for file in MODULES.values()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
    }
    assert set(re.findall(r"`([A-Z]\w+)`", page)) - {"L", "S"} <= defined


@pytest.mark.parametrize("folder", ["scripts", "benchmarks", "examples"])
def test_what_programs_beside_the_package_import_of_it_is_there(folder: str) -> None:
    """They are run by hand and seldom; a name that has moved would be noticed by whoever needs it."""
    wanted = {
        (str(file.relative_to(REPOSITORY)), str(node.module), alias.name)
        for file in sorted((REPOSITORY / folder).rglob("*.py"))
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == FACE
        for alias in node.names
    }
    assert wanted
    missing = [
        (file, module, name)
        for file, module, name in sorted(wanted)
        if f"{module}.{name}" not in MODULES and not hasattr(importlib.import_module(module), name)
    ]
    assert missing == []
