"""Findings that say the same of many rows, as one line with a count and what differs."""

from __future__ import annotations

import re
from collections.abc import Sequence

from fs_fedmllm.data.findings import Finding

#: Rows and differing parts that a line names; the rest are counted.
NAMED = 6
#: What differs between findings of one kind: what is quoted, paths, and numbers.
_PARTS = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|\S*/\S*|(?<![A-Za-z])[\d,.]*\d")


def grouped(findings: Sequence[Finding]) -> list[Finding]:
    """One finding for all of one kind in one file, in the order of the first of each; single ones as they are."""
    kinds: dict[tuple[str, ...], list[Finding]] = {}
    for found in findings:
        key = (found.severity, found.file, _PARTS.sub("*", found.problem), _PARTS.sub("*", found.remedy))
        kinds.setdefault(key, []).append(found)
    return [_joined(alike) for alike in kinds.values()]


def _joined(alike: Sequence[Finding]) -> Finding:
    first = alike[0]
    if len(alike) == 1:
        return first
    rows = listed([found.row for found in alike if found.row])
    others = _differences([found.problem for found in alike])
    count = f"{len(alike):,} rows: " if rows else f"{len(alike):,} times: "
    said = f" Also: {listed(others)}." if others else ""
    return Finding(first.severity, first.file, rows, f"{count}{first.problem}{said}", first.remedy)


def _differences(problems: Sequence[str]) -> list[str]:
    """The parts of further problems that differ from the first's, each once."""
    first = _PARTS.findall(problems[0])
    found: dict[str, None] = {}
    for problem in problems[1:]:
        for mine, other in zip(first, _PARTS.findall(problem), strict=True):
            if mine != other and other not in first:
                found.setdefault(other.rstrip(".,;"))
    return list(found)


def listed(words: Sequence[str]) -> str:
    """The first few words, and how many more there are."""
    more = len(words) - NAMED
    return ", ".join(words[:NAMED]) + (f" and {more:,} more" if more > 0 else "")
