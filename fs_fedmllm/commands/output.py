"""Standard output of a command that was asked for ``--json``: its document and nothing else.

Libraries print when they are imported; meanwhile that goes to standard error.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from typing import TextIO

_documents: list[TextIO] = []


@contextlib.contextmanager
def documents_only(wanted: bool) -> Iterator[None]:
    """For the length of a block, let standard output have what :func:`print_document` is given and nothing else.

    Args:
        wanted: whether that was asked for; otherwise nothing changes.
    """
    if not wanted:
        yield
        return
    _documents.append(sys.stdout)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        _documents.pop()


def _escaped(line: str) -> str:
    """A line with what is not printable as JSON escapes it."""
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in line)


def print_document(text: str) -> None:
    """Print a document of JSON, or one of its lines, to standard output.

    What would move a terminal's cursor or turn its text around is escaped as JSON escapes it.
    """
    text = "\n".join(line if line.isprintable() else _escaped(line) for line in text.split("\n"))
    print(text, file=_documents[-1] if _documents else sys.stdout)
