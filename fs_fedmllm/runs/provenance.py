"""Which source made a result: the git commit of a checkout, where the package runs from one."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path


@cache
def commit() -> str | None:
    """The commit that the package's files are of, with ``+changes`` behind it if they differ from it.

    None where the package was installed from a wheel, or git is absent: a repository that merely holds the virtual
    environment does not count.
    """
    package = Path(__file__).resolve().parents[1]
    if git_says(package, "ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    head = git_says(package, "rev-parse", "HEAD")
    changed = git_says(package, "status", "--porcelain", "--untracked-files=no", "--", ".")
    return f"{head}+changes" if head and changed else head


def git_says(folder: Path, *words: str) -> str | None:
    """What a git command prints about a folder; None where it fails, or there is no git."""
    try:
        done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
