"""``run.log``: what this package says while a site of a distributed run takes part, whatever its terminal shows.

A site runs for days where nobody watches, so everything from INFO on goes into the file, with the time in UTC.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from fs_fedmllm.errors import FedMLLMError

NAME = "run.log"


class _File(logging.FileHandler):
    """Appends to the file; a full disk is told once and stops nothing."""

    def __init__(self, path: Path):
        super().__init__(path, encoding="utf-8")
        formatter = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S+00:00")
        formatter.converter = time.gmtime
        self.setFormatter(formatter)
        self._told = False

    def handleError(self, record: logging.LogRecord) -> None:
        if not self._told:
            print(f"{self.baseFilename} cannot be written: {sys.exc_info()[1]}", file=sys.stderr)
        self._told = True


@contextlib.contextmanager
def log_in(folder: Path) -> Iterator[None]:
    """Keep a log in a run folder for the length of a block, and how the block ended if that was an error.

    Args:
        folder: it exists.

    Raises:
        OSError: the file cannot be opened.
    """
    logger = logging.getLogger("fs_fedmllm")
    level, shown = logger.level, logger.getEffectiveLevel()
    added: list[logging.Handler] = [_File(folder / NAME)]
    if not logger.hasHandlers():  # Python shows warnings of a logger that has none; now it has one
        terminal = logging.StreamHandler(sys.stderr)
        terminal.setLevel(shown)
        added.append(terminal)
    for handler in added:
        logger.addHandler(handler)
    logger.setLevel(min(shown, logging.INFO))
    try:
        yield
    except Exception as error:
        trace = None if isinstance(error, FedMLLMError) else (type(error), error, error.__traceback__)
        added[0].handle(logger.makeRecord(logger.name, logging.ERROR, __file__, 0, "%s", (error,), trace))
        raise
    finally:
        logger.setLevel(level)
        for handler in added:
            logger.removeHandler(handler)
            handler.close()
