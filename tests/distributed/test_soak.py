"""A real server and four client processes under kills, cuts, delays and corrupt bytes: nothing is lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from short_runs import REPOSITORY


@pytest.mark.slow
def test_a_federation_under_fire_ends_with_the_closed_form(tmp_path: Path) -> None:
    """Two hundred rounds; ``benchmarks/soak.py`` counts the faults and says what came of them."""
    words = ["--rounds", "200", "--kills", "8", "--server-kills", "2", "--limit", "600", "--folder", str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, REPOSITORY / "benchmarks" / "soak.py", *words],
        env=environment, capture_output=True, text=True, timeout=800, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    report = json.loads(done.stdout[done.stdout.index("{") :])
    assert report["same_as_closed_form"] and report["clients_agree"]
    assert report["rounds_with_somebody_missing"] == [] and report["updates"] == 800
    faults = report["faults"]
    assert faults["client killed"] + faults["server killed"] >= 8 and faults["server killed"] >= 1
    assert all(faults[kind] > 0 for kind in ("cut", "corrupt", "delay"))
