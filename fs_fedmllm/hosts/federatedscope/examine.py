"""A checkout as a doctor sees it: which commit, plugged or not, and whether it imports beside today's packages."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from fs_fedmllm.runs.provenance import git_says

#: The commit of FederatedScope's master that the tests run with.
TESTED_COMMIT = "480b67d"

_IMPORT = """
import sys
sys.path.insert(0, sys.argv[1])
from fs_fedmllm.hosts.federatedscope import compat
compat.apply_fixes()
import federatedscope
from federatedscope.core.configs.config import global_cfg
from fs_fedmllm.hosts.federatedscope.register import register_all
register_all()
import federatedscope.core.fed_runner
print(federatedscope.__version__)
"""


@dataclass(frozen=True)
class Examination:
    """What was found.

    Attributes:
        commit: short hash, or empty where git or its history is absent.
        clean: whether no tracked file differs; None if git cannot tell.
        version: what ``federatedscope.__version__`` says, or empty if it does not import.
        failure: the last line of a failed import.
    """

    commit: str
    clean: bool | None
    version: str
    failure: str


def examine(checkout: Path) -> Examination:
    """Look at a checkout; it is only read, and imported in a process of its own.

    Args:
        checkout: from :func:`fs_fedmllm.hosts.federatedscope.checkout.require_checkout`.
    """
    root = git_says(checkout, "rev-parse", "--show-toplevel")
    # A copy inside somebody else's repository has no commit of its own.
    own = root is not None and Path(root).resolve() == checkout
    changes = git_says(checkout, "status", "--porcelain", "--untracked-files=no") if own else None
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(
            [sys.executable, "-c", _IMPORT, str(checkout)],
            capture_output=True, text=True, check=False, timeout=300, env=environment, cwd=checkout,
        )  # fmt: skip
        failed, output, errors = done.returncode != 0, done.stdout, done.stderr
    except subprocess.TimeoutExpired:
        failed, output, errors = True, "", "the import took longer than 5 minutes"
    return Examination(
        commit=(git_says(checkout, "rev-parse", "--short=7", "HEAD") or "") if own else "",
        clean=None if changes is None else not changes,
        version="" if failed else output.strip().splitlines()[-1],
        failure=(errors.strip().splitlines() or ["no message"])[-1] if failed else "",
    )
