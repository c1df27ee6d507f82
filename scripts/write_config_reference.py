"""Write docs/configuration.md from the schema; ``--check`` says whether it is up to date (exit code 1 if not)."""

from __future__ import annotations

import argparse
import sys
from itertools import groupby
from pathlib import Path

from fs_fedmllm.config import describe

TARGET = Path(__file__).resolve().parent.parent / "docs" / "configuration.md"

HEAD = """# Configuration

<!-- Written by scripts/write_config_reference.py; do not edit. -->

A configuration is one YAML file in FederatedScope's format, and it is the same for every engine. This page lists every
key with its default; a preset contains the keys that differ. `fs-fedmllm config` prints this list, and `fs-fedmllm
config FILE [key value ...]` a resolved file. Overrides on the command line are `key=value` or `key value`:
`fs-fedmllm run FILE seed=7 federate.method=fedyogi`. A key of FederatedScope that is not listed here is used, ignored
with a line in the log, or refused with what to use instead, the same on every engine
([federatedscope.md](federatedscope.md)). Any other key is an error.

YAML reads `2e-5` as text; it is accepted as a number here, but in FederatedScope's own files write `2.0e-5`. A list or
mapping on the command line is one word: `data.splitter_args "[{alpha: 1.0}]"`. Numbers that YAML reads otherwise
than they look (`010` as 8, `1:30` as 90, `2024_05` as 202405) are refused in a file, and so are `no`, `1.10` and a
date without quotes where a text is meant. On the command line the word itself is taken for a text (`expname=007`),
the last one of a key that is given twice counts, and a whole section is refused, since its other keys would be lost.
A path that begins with `~` is refused: only a shell replaces it.
"""


def section(key: str) -> str:
    """The section that a key is listed under."""
    return key.rpartition(".")[0] or "(top level)"


def text() -> str:
    """The whole document."""
    parts = [HEAD]
    for name, rows in groupby(sorted(describe(), key=lambda row: section(row[0])), key=lambda row: section(row[0])):
        parts.append(f"\n## {name if name.startswith('(') else f'`{name}`'}\n\n| key | type | default | meaning |")
        parts.append("| --- | --- | --- | --- |")
        for key, kind, default, meaning in rows:
            cells = (f"`{key.rpartition('.')[2]}`", kind, f"`{default}`", meaning)
            parts.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(parts) + "\n"


def main() -> int:
    """Write it, or compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing")
    if parser.parse_args().check:
        return int(TARGET.read_text(encoding="utf-8") != text())
    TARGET.write_text(text(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
