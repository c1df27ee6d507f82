"""What a run says, and where: FederatedScope's log in its file, no escape codes in ours, little with --quiet."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from forks import Forks
from short_runs import CONFIGS, REPOSITORY, SHORT

ONE = [*SHORT, "federate.total_round_num", "1", "eval.freq", "1", "expname", "job"]


def _run(forks: Forks, tmp_path: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """In a fork; that imports say nothing is seen in tests/sweeps/test_runner.py and hub/test_federatedscope.py."""
    line = ["-m", "fs_fedmllm", "run", CONFIGS / "cross_i3t7.yaml", *ONE, *words]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", **variables}
    done = forks.run(line, tmp_path, environment)
    assert done.returncode == 0, done.stderr[-2000:]
    return done


def test_federatedscopes_log_is_in_its_file(fs_source, forks, tmp_path: Path) -> None:
    done = _run(forks, tmp_path, "--engine", "federatedscope", FEDERATEDSCOPE_HOME=str(fs_source))
    assert "\x1b" not in done.stdout + done.stderr
    told = [line for line in done.stderr.replace("\r", "\n").splitlines() if line.strip()]
    assert told == [line for line in told if line.startswith("round 1: ")]
    assert len((tmp_path / "exp" / "job" / "exp_print.log").read_text().splitlines()) > 100


def test_verbose_shows_it_without_colours_in_a_file(fs_source, forks, tmp_path: Path) -> None:
    done = _run(forks, tmp_path, "-v", "--engine", "federatedscope", FEDERATEDSCOPE_HOME=str(fs_source))
    assert "\x1b" not in done.stdout + done.stderr
    assert sum(" INFO federatedscope." in line for line in done.stderr.splitlines()) > 20


@pytest.mark.parametrize("quiet", [False, True])
def test_a_run_of_ours_says_what_it_did_and_quiet_its_results_only(forks, tmp_path: Path, quiet: bool) -> None:
    done = _run(forks, tmp_path, "--engine", "embedded", *(["--quiet"] if quiet else []))
    assert "\x1b" not in done.stdout + done.stderr and "adapter sha256" in done.stdout
    told = [line for line in done.stderr.replace("\r", "\n").splitlines() if line.strip()]
    # A further line for each minute that a busy machine takes.
    assert told == [] if quiet else told and all(line.startswith("round 1: ") for line in told), told
