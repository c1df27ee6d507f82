"""The doctor's look at a checkout of FederatedScope."""

from __future__ import annotations

import subprocess
from pathlib import Path

from fs_fedmllm.hosts.federatedscope.examine import TESTED_COMMIT, examine


def test_a_checkout_is_read_and_imported_beside_todays_packages(fs_source: Path) -> None:
    found = examine(fs_source)
    assert found.version and not found.failure
    said = subprocess.run(
        ["git", "-C", fs_source, "rev-parse", "--short=7", "HEAD"], capture_output=True, text=True, check=False
    )
    assert found.commit == said.stdout.strip()
    assert len(TESTED_COMMIT) == 7


def test_a_copy_without_history_that_does_not_import(fresh_checkout: Path) -> None:
    (fresh_checkout / "federatedscope" / "register.py").write_text("raise RuntimeError('spoilt')\n")
    found = examine(fresh_checkout)
    assert found.commit == "" and found.clean is None and found.version == ""
    assert "spoilt" in found.failure
