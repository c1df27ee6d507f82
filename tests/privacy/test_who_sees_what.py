"""The table of docs/privacy.md: every cell that claims protection names a test, which runs and asserts just that."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator

import pytest
from short_runs import REPOSITORY

#: How a cell begins that claims something.
CLAIMS = ("no [", "noise", "nothing [", "within", "the sum of the others")
#: By number: what one of the assertions of each of its tests says. A test that lost it would pass, and prove nothing.
PROVES: dict[int, tuple[str, ...]] = {
    1: ("stats.chisquare(counts).pvalue > 0.0001",),
    2: ("tensors == {'masked'}",),
    3: ("set(message.tensors) == {'masked'} and 'loss' not in json.dumps(dict(message.header))",),
    4: ("pytest.raises(Refused, match='masked update of round 0 among the clients 1, 2, 3, 4.*among 1, 2, 4')",),
    5: ("pytest.raises(Refused, match=", "pytest.raises(Refused, match=said[trick])"),
    6: ("pytest.raises(Refused, match=said)",),
    7: ("(opened({1: b'adapter', 2: b'zeros', 3: b'zeros'}) != vectors([1])[1]).all()",),
    8: ("len(keys) < threshold",),
    9: ("(left[client] != data[client]).all()",),
    10: ("gaussian_delta(eps, 1.0) == pytest.approx(1e-05, rel=0.001)",),
    11: ("pytest.raises(UpdateError, match='Client 3 .*clip_norm = 0\\\\.5: it did not clip')",),
    12: ("clip_norm * 0.99 < l2_norm(contribution) <= clip_norm",),
    13: ("(weights in proxy.seen) == (not encrypted)",),
    14: ("not single",),
}


def section() -> str:
    text = (REPOSITORY / "docs" / "privacy.md").read_text()
    return text.split("## What the server learns", 1)[1].split("\n### ", 1)[0]


def named_tests() -> dict[int, list[str]]:
    """Tests by the number that a cell names; some have one for each engine."""
    entries = re.findall(r"^(\d+)\. (.+(?:\n   .+)*)", section(), re.MULTILINE)
    return {int(number): re.findall(r"`([^`]+)`", text) for number, text in entries}


def cells() -> list[str]:
    rows = [line for line in section().splitlines() if line.startswith("| ")][1:]
    return [cell.strip() for row in rows for cell in row.strip("|").split("|")[1:]]


def numbers_of(cell: str) -> set[int]:
    return {int(n) for found in re.findall(r"\[([\d, ]+)\]", cell) for n in found.split(",")}


@functools.cache
def parsed(path: str) -> ast.Module:
    return ast.parse((REPOSITORY / path).read_text())


def function_of(name: str) -> ast.FunctionDef:
    path, _, function = name.partition("::")
    found = [node for node in parsed(path).body if isinstance(node, ast.FunctionDef) and node.name == function]
    assert len(found) == 1, name
    return found[0]


def marks(name: str) -> str:
    """What may keep a test from running: its decorators, those of its file, and skips in its body."""
    function = function_of(name)
    file_marks = [
        node.value
        for node in parsed(name.partition("::")[0]).body
        if isinstance(node, ast.Assign) and any(getattr(target, "id", "") == "pytestmark" for target in node.targets)
    ]
    calls = [node for node in ast.walk(function) if isinstance(node, ast.Call) and "skip" in ast.unparse(node.func)]
    return " ".join(ast.unparse(node) for node in [*function.decorator_list, *file_marks, *calls])


def assertions(function: ast.FunctionDef) -> Iterator[str]:
    for node in ast.walk(function):
        if isinstance(node, ast.Assert):
            yield ast.unparse(node.test)
        elif isinstance(node, ast.With):
            yield from (ast.unparse(item.context_expr) for item in node.items)


def test_a_claim_has_a_test() -> None:
    numbers = named_tests()
    assert sorted(numbers) == list(range(1, len(numbers) + 1)) and len(numbers) > 10 and all(numbers.values())
    used: set[int] = set()
    for cell in cells():
        named = numbers_of(cell)
        used |= named
        claims = cell.startswith(CLAIMS) and cell != "within `value_range`"
        assert bool(named) == claims, cell
    assert used == set(numbers)


def test_every_claim_is_tested_whenever_the_tests_run() -> None:
    """A long test may stand beside a quick one, but no cell has long ones only; none is skipped, or meant to fail."""
    quick = set()
    for number, names in named_tests().items():
        for name in names:
            assert not re.search(r"skip|xfail", marks(name)), name
            if "slow" not in marks(name):
                quick.add(number)
    for cell in cells():
        assert not numbers_of(cell) or numbers_of(cell) & quick, cell


@pytest.mark.parametrize("number", sorted(PROVES))
def test_its_assertion_is_there(number: int) -> None:
    names = named_tests()[number]
    assert len(names) == len(PROVES[number])
    for name, says in zip(names, PROVES[number], strict=True):
        assert any(says in found for found in assertions(function_of(name))), name


def test_no_number_is_left_out() -> None:
    assert set(named_tests()) == set(PROVES)
