"""Suggestions for misspelt names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str:
    """What to add to "unknown ...": the known name that is spelt most alike; else one that has the word in it."""
    names = list(known)
    close = _alike(name, names, 0.85) or _with_word(name, names) or _alike(name, names, 0.5)
    return f"; did you mean {' or '.join(map(repr, close))}?" if close else "."


def _alike(name: str, names: list[str], least: float) -> list[str]:
    """The name that is spelt most alike, whatever is in capitals."""
    close = difflib.get_close_matches(name.lower(), [other.lower() for other in names], n=1, cutoff=least)
    return [other for other in names if other.lower() in close][:1]


def _with_word(name: str, names: list[str]) -> list[str]:
    """Dotted names whose last part has this one's last part as a word: ``total_round_num`` of ``rounds``."""
    section, _, last = name.rpartition(".")
    words = {last, last.removesuffix("s")}
    found = [other for other in names if words & set(other.rpartition(".")[2].split("_"))]
    near = [other for other in found if other.rpartition(".")[0] == section]
    return (near or found)[:2]
