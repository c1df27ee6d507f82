"""The code as it is does what it did when ``reference.json`` was written, on whatever machine (see freeze.py)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from frozen_values import differences
from short_runs import REPOSITORY

HERE = Path(__file__).resolve().parent
REFERENCE = HERE / "reference.json"


@pytest.mark.slow
@pytest.mark.parametrize("part", ["embedded", "federatedscope", "across", "help", "bad"])
def test_nothing_differs_from_what_is_frozen(request: pytest.FixtureRequest, part: str) -> None:
    if not REFERENCE.is_file():
        pytest.skip(f"NOT RUN: there is no {REFERENCE}; freeze.py --portable --write makes it")
    if part in ("federatedscope", "across"):
        from fs_fedmllm.hosts.federatedscope.checkout import find_federatedscope

        if find_federatedscope() is None:
            pytest.skip("NOT RUN: no FederatedScope checkout (set FEDERATEDSCOPE_HOME, or clone it to ~)")
    command = [sys.executable, HERE / "freeze.py", "--compare", REFERENCE, "--parts", part, "--portable"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]


def test_a_difference_is_told_with_its_place_and_rounding_is_none() -> None:
    old = {"run": {"exact": {"sha": "a"}, "portable": {"bytes": 5, "keys": ["x"]}, "norms": {"w": 1.0, "v": 2.0}}}
    new = {"run": {"exact": {"sha": "b"}, "portable": {"bytes": 6, "more": 1}, "norms": {"w": 1.0001, "v": 2.1}}}
    assert differences(old, old, True) == []
    assert differences(old, new, False) == [
        "run / norms / v: 2.0 -> 2.1",
        "run / portable / bytes: 5 -> 6",
        "run / portable / keys: is gone",
        "run / portable / more: is new",
    ]
    told = differences(old, new, True)
    assert "run / exact / sha: 'a' -> 'b'" in told and "run / norms / w: 1.0 -> 1.0001" in told
