"""Put a sweep's tables into a document, between two marks, so that the text around them is never about other figures.

    python scripts/write_findings_tables.py exp/sweeps/digits_findings docs/findings.md

The document holds the lines ``<!-- tables -->`` and ``<!-- end of tables -->``; what stands between them is replaced.
A document that does not exist is made, with the marks and nothing around them.
"""

from __future__ import annotations

import sys
from pathlib import Path

from fs_fedmllm.tools.report.content import content_of
from fs_fedmllm.tools.report.page import markdown
from fs_fedmllm.tools.report.runs import read_sheet

FIRST, LAST = "<!-- tables -->", "<!-- end of tables -->"


def with_tables(document: str, tables: str) -> str:
    """The document with the tables between its marks.

    Raises:
        SystemExit: it has not one pair of marks.
    """
    if document.count(FIRST) != 1 or document.count(LAST) != 1 or document.index(FIRST) > document.index(LAST):
        raise SystemExit(f"The document needs one line {FIRST} and, after it, one line {LAST}.")
    head, rest = document.split(FIRST)
    return f"{head}{FIRST}\n\n{tables.strip()}\n\n{LAST}{rest.split(LAST)[1]}"


def main() -> None:
    """Command line."""
    sweep, target = (Path(word) for word in sys.argv[1:3])
    # The title is the document's own.
    tables = markdown(content_of(read_sheet([sweep]), pictures=False), slices=False).split("\n", 1)[1]
    document = target.read_text(encoding="utf-8") if target.is_file() else f"# Findings\n\n{FIRST}\n{LAST}\n"
    target.write_text(with_tables(document, tables), encoding="utf-8")
    print(target)


if __name__ == "__main__":
    main()
