"""Plain text: rows of cells as columns, the beginning of a sentence, a long text cut, what no UTF-8 file can hold."""

from __future__ import annotations

from collections.abc import Collection, Sequence


def aligned(rows: Sequence[Sequence[str]], left: Collection[int] = (0,)) -> list[str]:
    """One line for each row, two blanks between columns.

    Args:
        rows: the cells, as many in each; the header is one of them.
        left: columns that are aligned to the left; the others, numbers mostly, to the right.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]

    def line(row: Sequence[str]) -> str:
        cells = zip(row, widths, strict=True)
        return "  ".join(c.ljust(w) if i in left else c.rjust(w) for i, (c, w) in enumerate(cells)).rstrip()

    return [line(row) for row in rows]


def capital(sentence: str) -> str:
    """A sentence with a capital at its beginning, and the rest as it is."""
    return sentence[:1].upper() + sentence[1:]


def cut(text: str, most: int) -> str:
    """A text of at most so many characters, the last of them dots where something is left out."""
    return text if len(text) <= most else f"{text[: most - 3]}..."


def lone_surrogate(text: str) -> str:
    """The first half character as JSON writes it, such as ``\\ud83d``; empty if there is none."""
    if text.isascii():
        return ""
    return next((f"\\u{ord(letter):04x}" for letter in text if "\ud800" <= letter <= "\udfff"), "")
