"""How much a command says: ``--quiet`` and ``--verbose``; Python's logging keeps the choice for every part.

On standard error: errors always, warnings and progress by default, what was done with ``--verbose``. What ``--quiet``
silences of a run that goes on (an update that was refused, a push that failed) stands in its results.json. Results go
to standard output whatever is chosen.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys
from collections.abc import Iterator

#: Progress is shown while this logger lets INFO through.
PROGRESS = logging.getLogger("fs_fedmllm.progress")
_OURS = logging.getLogger("fs_fedmllm")


def add_verbosity(parser: argparse.ArgumentParser) -> None:
    """Add ``-q`` and ``-v`` to a command."""
    how = parser.add_mutually_exclusive_group()
    how.add_argument("-q", "--quiet", action="store_true", help="errors and results only, no progress")
    how.add_argument("-v", "--verbose", action="store_true",
                     help="print each step; with FederatedScope, its log too")  # fmt: skip


@contextlib.contextmanager
def verbosity(args: argparse.Namespace) -> Iterator[None]:
    """Make the choice hold for this process and those that it forks, until the command has ended.

    Who calls a command from Python finds logging as it was.
    """
    before = [(logger, logger.level, list(logger.handlers)) for logger in (PROGRESS, _OURS)]
    _apply(args)
    try:
        yield
    finally:
        for logger, level, handlers in before:
            logger.setLevel(level)
            logger.handlers[:] = handlers


def _apply(args: argparse.Namespace) -> None:
    PROGRESS.setLevel(logging.ERROR if args.quiet else logging.INFO)
    _OURS.setLevel(logging.ERROR if args.quiet else logging.INFO if args.verbose else logging.WARNING)
    if args.verbose and not _OURS.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        _OURS.addHandler(handler)


def shows_progress() -> bool:
    """Whether bars and lines of progress are wanted."""
    return PROGRESS.isEnabledFor(logging.INFO) or PROGRESS.level == logging.NOTSET


def is_verbose() -> bool:
    """Whether everything is wanted."""
    return _OURS.isEnabledFor(logging.INFO)


def takes_colour() -> bool:
    """Whether standard error is a terminal whose user has not asked for plain text (NO_COLOR)."""
    return sys.stderr.isatty() and not os.environ.get("NO_COLOR")
