"""What a run says, and where: FederatedScope's log in its file, no escape codes in ours, little with --quiet."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from short_runs import CONFIGS, REPOSITORY, SHORT

ONE = [*SHORT, "federate.total_round_num", "1", "eval.freq", "1", "expname", "job"]


def _run(tmp_path: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fs_fedmllm", "run", CONFIGS / "cross_i3t7.yaml", *ONE, *words],
        cwd=tmp_path, capture_output=True, text=True, timeout=600, check=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", **variables},
    )  # fmt: skip


def test_federatedscopes_log_is_in_its_file(fs_source, tmp_path: Path) -> None:
    done = _run(tmp_path, "--engine", "federatedscope", FEDERATEDSCOPE_HOME=str(fs_source))
    assert "\x1b" not in done.stdout + done.stderr
    told = [line for line in done.stderr.replace("\r", "\n").splitlines() if line.strip()]
    assert told == [line for line in told if line.startswith("round 1: ")]
    assert len((tmp_path / "exp" / "job" / "exp_print.log").read_text().splitlines()) > 100


def test_verbose_shows_it_without_colours_in_a_file(fs_source, tmp_path: Path) -> None:
    done = _run(tmp_path, "-v", "--engine", "federatedscope", FEDERATEDSCOPE_HOME=str(fs_source))
    assert "\x1b" not in done.stdout + done.stderr
    assert sum(" INFO federatedscope." in line for line in done.stderr.splitlines()) > 20


@pytest.mark.parametrize("quiet", [False, True])
def test_a_run_of_ours_says_what_it_did_and_quiet_its_results_only(tmp_path: Path, quiet: bool) -> None:
    done = _run(tmp_path, "--engine", "embedded", *(["--quiet"] if quiet else []))
    assert "\x1b" not in done.stdout + done.stderr and "adapter sha256" in done.stdout
    told = [line for line in done.stderr.replace("\r", "\n").splitlines() if line.strip()]
    assert told == [] if quiet else len(told) == 1 and told[0].startswith("round 1: ")
