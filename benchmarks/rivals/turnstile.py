"""Lets contestants' rounds alternate: one works, the others wait. Standard library only.

The driver makes a file to let a contestant in, and the contestant makes one when it is through. So every contestant
starts once and stays warm, and a slow minute of the machine hits all alike.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

#: The folder of the files, and the contestant's name.
FOLDER, NAME = "RIVALS_FOLDER", "RIVALS_NAME"
POLL = 0.005


def _file(part: str, ending: str) -> Path:
    return Path(os.environ[FOLDER]) / f"{os.environ[NAME]}.{part}.{ending}"


def wait_for(path: Path) -> None:
    """Sleep until a file is there."""
    while not path.exists():
        time.sleep(POLL)


def enter(part: str) -> None:
    """Wait for the contestant's turn at a part of the plan, such as ``"3"`` for round 3."""
    _file(part, "ready").touch()
    wait_for(_file(part, "go"))


def leave(part: str) -> None:
    """Say that the part is done."""
    _file(part, "done").touch()


@contextlib.contextmanager
def turn(part: str) -> Iterator[None]:
    """Both."""
    enter(part)
    yield
    leave(part)
