"""The commands ``fs-fedmllm data``."""

from __future__ import annotations

from typing import Any


def add_data_commands(commands: Any) -> None:
    """Add ``data`` to the command line's grammar."""
