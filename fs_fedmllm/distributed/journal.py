"""What a site tells those who run it: one JSON line per event, and a status that is written over.

Neither ever stops a run: a line that cannot be written is a warning in the log, where checkpoints are errors.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fs_fedmllm.distributed.roster import stamp
from fs_fedmllm.errors import StorageError
from fs_fedmllm.files.atomic import write_atomically

logger = logging.getLogger("fs_fedmllm.distributed")

EVENTS, STATUS_FILE = "events.jsonl", "status.json"
#: Letters of a text that are written.
LONGEST = 2000
#: Events that somebody should look at.
_WARNINGS = ("refused", "missing", "lost", "aborted", "error", "unreachable")


class Journal:
    """Events of one site, appended to ``events.jsonl`` of its run folder and given to Python's logging.

    Args:
        folder: the run folder.
        site: ``server`` or ``client 3``.
    """

    def __init__(self, folder: Path, site: str):
        self._path = folder / EVENTS
        self._site = site
        self._lock = threading.Lock()

    def write(self, event: str, **figures: Any) -> None:
        """Record an event. Only what is passed here is written: no configuration, no key, no row."""
        figures = {name: _bearable(value) for name, value in figures.items()}
        line = json.dumps({"time": stamp(time.time()), "site": self._site, "event": event, **figures})
        told = ", ".join(f"{name} {value}" for name, value in figures.items())
        logger.log(logging.WARNING if event in _WARNINGS else logging.INFO, "%s: %s %s", self._site, event, told)
        with self._lock:
            try:
                with self._path.open("a", encoding="utf-8") as stream:
                    stream.write(line + "\n")
            except OSError as error:
                logger.warning("%s cannot be written: %s", self._path, error.strerror)


def _bearable(value: Any) -> Any:
    """A text, which may be the other side's words, without what moves a terminal's cursor and of a bearable length."""
    if not isinstance(value, str):
        return value
    return "".join(letter if letter.isprintable() else " " for letter in value[:LONGEST])


class StatusFile:
    """``status.json`` of a run folder, whole at every moment and at most about a second old.

    Args:
        folder: the run folder.
        every: least seconds between two writes of news that can wait.
        clock: monotonic seconds.
    """

    def __init__(self, folder: Path, every: float = 1.0, clock: Callable[[], float] = time.monotonic):
        self._path = folder / STATUS_FILE
        self._every = every
        self._clock = clock
        self._written = -every
        self._last: dict[str, Any] = {}
        self._lock = threading.Lock()

    def write(self, status: Mapping[str, Any], *, now: bool = False) -> None:
        """Write the status if it changed and is due, or now."""
        with self._lock:
            if dict(status) == self._last or (not now and self._clock() - self._written < self._every):
                return
            self._last, self._written = dict(status), self._clock()
            text = json.dumps({"updated": stamp(time.time()), **status}, indent=2)
            try:
                write_atomically(self._path, f"{text}\n".encode(), durable=False)
            except (OSError, StorageError) as error:
                logger.warning("%s cannot be written: %s", self._path, error)
