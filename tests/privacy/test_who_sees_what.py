"""The table of docs/privacy.md: every cell that claims protection names a test, and the test is there."""

from __future__ import annotations

import ast
import re

from short_runs import REPOSITORY

#: How a cell begins that claims something.
CLAIMS = ("no [", "noise", "nothing [", "within", "the sum of the others")


def section() -> str:
    text = (REPOSITORY / "docs" / "privacy.md").read_text()
    return text.split("## What the server learns", 1)[1].split("### NVFlare", 1)[0]


def named_tests() -> dict[int, list[str]]:
    """Tests by the number that a cell names; some have one for each engine."""
    entries = re.findall(r"^(\d+)\. (.+(?:\n   .+)*)", section(), re.MULTILINE)
    return {int(number): re.findall(r"`([^`]+)`", text) for number, text in entries}


def cells() -> list[str]:
    rows = [line for line in section().splitlines() if line.startswith("| ")][1:]
    return [cell.strip() for row in rows for cell in row.strip("|").split("|")[1:]]


def test_a_claim_has_a_test() -> None:
    numbers = named_tests()
    assert sorted(numbers) == list(range(1, len(numbers) + 1)) and len(numbers) > 10 and all(numbers.values())
    used: set[int] = set()
    for cell in cells():
        named = {int(n) for found in re.findall(r"\[([\d, ]+)\]", cell) for n in found.split(",")}
        used |= named
        claims = cell.startswith(CLAIMS) and cell != "within `value_range`"
        assert bool(named) == claims, cell
    assert used == set(numbers)


def test_the_tests_are_there() -> None:
    for name in (name for names in named_tests().values() for name in names):
        path, _, function = name.partition("::")
        tree = ast.parse((REPOSITORY / path).read_text())
        assert function in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}, name
