"""The tests themselves: none measures how fast a machine is, none sleeps for so long, none gives up early."""

from __future__ import annotations

import ast
import runpy
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
#: Functions that read a clock or sleep, and where they may stand beside ``waiting`` and ``forks``: a peer that is slow
#: on purpose, times that two requests have between them at least, and soaks. The fuzzer bounds an input's CPU.
CLOCKS = {"time.sleep", "time.time", "time.monotonic", "time.perf_counter", "time.process_time"}
OWN_TIMES = {
    "waiting.py", "forks.py", "judge_server.py", "test_judge_endpoint.py", "test_secure_round.py", "fuzz_readers.py",
    "test_killed_runs.py",
}  # fmt: skip
#: What these give up after is what they are about.
SHORT_TIMES = {"test_an_answer_that_does_not_come"}
WAITS = {"wait", "communicate", "settimeout", "run"}
SHORTEST = 120


def early(function: ast.AST) -> list[int]:
    """The lines of a function's waits that end after less than ``SHORTEST`` seconds."""
    found = []
    for call in ast.walk(function):
        if isinstance(call, ast.Call):
            limits = [word.value for word in call.keywords if word.arg == "timeout"]
            limits += call.args if isinstance(call.func, ast.Attribute) and call.func.attr in WAITS else []
            seconds = [limit.value for limit in limits if isinstance(limit, ast.Constant)]
            found += [call.lineno for value in seconds if isinstance(value, int | float) and value < SHORTEST]
    return found


@pytest.mark.parametrize("path", sorted(HERE.rglob("*.py")), ids=lambda path: path.name)
def test_a_test_waits_for_what_happens(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    clocks = [call.lineno for call in calls if ast.unparse(call.func) in CLOCKS]
    assert not clocks or path.name in OWN_TIMES, f"{path}:{clocks}: wait for an event, see tests/waiting.py"
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    short = [line for function in functions if function.name not in SHORT_TIMES for line in early(function)]
    assert not short, f"{path}:{short}: waits end at the event, so let them be given up late (waiting.LONG)"


def test_early_ends_are_found() -> None:
    assert early(ast.parse("process.wait(30)\ncall(timeout=2.5)\nx.run(a, timeout=5)\nx.wait(LONG)")) == [1, 2, 3]


def test_test_files_have_names_of_their_own() -> None:
    """Pytest imports them by their names alone, and collects none of them where two are alike."""
    names = [path.name for path in HERE.rglob("test_*.py")]
    assert sorted({name for name in names if names.count(name) > 1}) == []


def test_the_files_that_are_begun_first_are_there() -> None:
    """A file that got another name would be begun last, and one process would wait for it at the end."""
    names = runpy.run_path(str(HERE / "conftest.py"))["LONGEST"]
    assert len(set(names)) == len(names) and set(names) <= {path.name for path in HERE.rglob("test_*.py")}
