"""Names and values inside commands and YAML that messages propose, so that these can be pasted as they stand.

A column may be called ``what we saw`` or ``$(reboot)``, and a folder ``my data``: a command that names it unquoted is
another command.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Mapping

#: Words that YAML reads as something else than a text.
_NOT_TEXT = frozenset(("y", "n", "yes", "no", "on", "off", "true", "false", "null"))


def shell_word(value: str | os.PathLike[str]) -> str:
    """A value as one word of a command line, in bash and zsh.

    What would move a terminal's cursor is written as an escape, so the word means the same after it was shown.
    """
    text = os.fspath(value)
    if text.isprintable():
        return shlex.quote(text)
    return "$'" + "".join(map(_ansi_c, text)) + "'"


def shell_option(option: str, value: str) -> str:
    """An option with its value as words of a command line; a value that begins as options do stays one.

    Args:
        option: without its dashes.
        value: of it.
    """
    return f"--{option}{'=' if value.startswith('-') else ' '}{shell_word(value)}"


def _ansi_c(c: str) -> str:
    if c in "\\'":
        return f"\\{c}"
    if c.isprintable():
        return c
    if "\udc80" <= c <= "\udcff":  # a byte of a path that is no UTF-8
        return f"\\x{ord(c) - 0xDC00:02x}"
    return f"\\x{ord(c):02x}" if ord(c) < 0x80 else f"\\U{ord(c):08x}"


def yaml_word(text: str) -> str:
    """A text as YAML reads it back, whatever is in it; in flow style too."""
    plain = text.isascii() and text[:1].isalpha() and all(c.isalnum() or c in "_./-" for c in text)
    if plain and text.lower() not in _NOT_TEXT:
        return text
    made = []
    for c in text:
        if c in '"\\':
            made.append("\\" + c)
        else:
            made.append(c if c.isprintable() else f"\\U{ord(c):08x}")
    return f'"{"".join(made)}"'


def yaml_list(items: Iterable[str]) -> str:
    """Texts as a list of YAML, on one line."""
    return f"[{', '.join(map(yaml_word, items))}]"


def yaml_mapping(items: Mapping[str, str]) -> str:
    """Texts by name as a mapping of YAML, on one line."""
    return f"{{{', '.join(f'{yaml_word(name)}: {yaml_word(text)}' for name, text in items.items())}}}"


#: What a formula begins with.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def spreadsheet_cell(value: object) -> object:
    """A value for a CSV file that people open in a spreadsheet: a text that would be a formula begins with a quote."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def plain_cell(text: str) -> str:
    """What :func:`spreadsheet_cell` was given."""
    return text[1:] if text.startswith("'") and text[1:].startswith(_FORMULA) else text
