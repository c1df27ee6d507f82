"""From a generated answer to the option it names: strict, lenient, and as the authors' scripts do it.

* ``strict``: the answer is ``(A)`` or ``(A) name`` and nothing else. Its share is the format rate.
* ``lenient``: the first rule that finds an option decides; if it finds two different ones, the answer is unparsable:

  1. the strict form;
  2. lettered mentions ``(A)``, ``( A )``, ``[A]``, ``A)`` or ``**A**`` anywhere (any case inside brackets);
  3. a capital letter that is the whole answer, or opens it before ``.``, ``:``, ``,`` or a line end, or
     follows ``answer is``, ``answer:``, ``option`` or ``choice``;
  4. option names as whole words in any case, the longest first (``hateful`` is not found in ``not-hateful``).

* ``upstream``: ``eval_hateful.py`` and ``eval_crisis.py`` of the FedMLLM release. Delete ``answer`` and
  ``Answer``; take the first match of ``[\\(\\ ]*[A-G][\\)\\ ]*`` (``A-H`` for CrisisMMD); strip blanks, then
  parentheses; look the letter up. Whatever fails is code 2. So ``Given this, (A)`` is the G of ``Given``, and
  ``( A )`` fails because the inner blanks stay.
* ``words``: for options without letters: the answer is an option's name and nothing else but blanks around it and a
  full stop behind, else the fourth lenient rule.
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fs_fedmllm.errors import FedMLLMError

MODES = ("strict", "lenient", "upstream", "words")

#: Code of an answer that names no option. It equals no label, so it counts as wrong.
UNPARSABLE = -1

#: Code that the authors give to an answer that names no option; in CrisisMMD that is a class of its own.
UPSTREAM_UNPARSABLE = 2

_STRICT = re.compile(r"\(([A-Z])\)(?: (.+))?", re.DOTALL)
_BRACKETED = re.compile(r"\(\s*([A-Za-z])\s*\)|\[\s*([A-Za-z])\s*\]|\*\*\s*([A-Z])\s*\*\*|(?<![\w(\[])([A-Z])\)")
_LEADING = re.compile(r"\s*([A-Z])\s*(?:$|[.:,\n])")
_ANNOUNCED = re.compile(r"\b(?:[Aa]nswer(?:\s+is)?|[Oo]ption|[Cc]hoice)\s*:?\s+([A-Z])\b")


class ParsingError(FedMLLMError):
    """The way of parsing, or the options to parse for, cannot be used."""


@dataclass(frozen=True)
class ParsedOptions:
    """Parsed answers, in the order given.

    Attributes:
        codes: (rows,) option indices; :data:`UNPARSABLE` where there is none, or in ``upstream`` mode
            :data:`UPSTREAM_UNPARSABLE`.
        parsed: (rows,) whether an option was found. In ``upstream`` mode this tells a real third option from a
            failure, which the code alone does not.
    """

    codes: np.ndarray
    parsed: np.ndarray

    @property
    def unparsable_rate(self) -> float:
        """Share of answers that name no option; NaN without rows."""
        return float(1 - self.parsed.mean()) if len(self.parsed) else float("nan")


def strict_option(answer: str, options: Sequence[str]) -> int | None:
    """Index of the option that an answer of the form ``(A)`` or ``(A) name`` names, else None.

    A name that is not the option's own is no match.
    """
    found = _STRICT.fullmatch(answer.strip())
    if found is None:
        return None
    index = string.ascii_uppercase.index(found[1])
    if index >= len(options) or (found[2] is not None and found[2].strip() != options[index]):
        return None
    return index


def lenient_option(answer: str, options: Sequence[str]) -> int | None:
    """Index of the one option that an answer names by the rules at the top of this module, else None."""
    index = strict_option(answer, options)
    if index is not None:
        return index
    letters = {next(group for group in found.groups() if group) for found in _BRACKETED.finditer(answer)}
    if not letters:
        leading = _LEADING.match(answer)
        letters = {leading[1]} if leading else {found[1] for found in _ANNOUNCED.finditer(answer)}
    indices = {string.ascii_uppercase.index(letter.upper()) for letter in letters}
    indices = {i for i in indices if i < len(options)}
    if not indices:
        indices = _named(answer, options)
    return indices.pop() if len(indices) == 1 else None


def spelled_option(answer: str, options: Sequence[str]) -> int | None:
    """Index of the one option that an answer gives in its own words, else None."""
    said = answer.strip()
    for i, name in enumerate(options):
        if name.strip() in (said, said.removesuffix(".")):
            return i
    indices = _named(answer, options)
    return indices.pop() if len(indices) == 1 else None


def _named(answer: str, options: Sequence[str]) -> set[int]:
    """Options whose names occur; a longer name hides the shorter ones inside it."""
    rest, found = answer.lower(), set()
    for i in sorted(range(len(options)), key=lambda i: -len(options[i])):
        name = re.compile(rf"(?<!\w){re.escape(options[i].lower())}(?!\w)")
        if name.search(rest):
            found.add(i)
            rest = name.sub(" \0 ", rest)
    return found


def upstream_option(answer: str, options: int) -> int | None:
    """The authors' parser, with None for what they turn into code 2.

    Args:
        answer: the generated text.
        options: number of options; with two the letters searched are A to G (Hateful-Memes), else A to H.
    """
    last = "G" if options == 2 else "H"
    found = re.search(rf"[\(\ ]*[A-{last}][\)\ ]*", answer.replace("answer", "").replace("Answer", ""))
    if found is None:
        return None
    letter = found[0].strip(" ").strip("()")
    # A blank left inside ("( A )") makes it two or three characters, which no letter equals.
    index = string.ascii_uppercase.index(letter) if len(letter) == 1 else options
    return index if index < options else None


def parse_options(answers: Sequence[str], options: Sequence[str], mode: str = "lenient") -> ParsedOptions:
    """Parse generated answers.

    Args:
        answers: generated texts.
        options: names of the options, in letter order (2 to 26).
        mode: ``strict``, ``lenient``, ``upstream`` or ``words``.

    Raises:
        ParsingError: no such mode, or a number of options that cannot be lettered.
    """
    if mode not in MODES:
        raise ParsingError(f"Answers are parsed in one of the modes {', '.join(MODES)}, not {mode!r}.")
    if not 2 <= len(options) <= len(string.ascii_uppercase):
        raise ParsingError(f"Answers are parsed for 2 to 26 options, not {len(options)}.")
    if mode == "strict":
        found = [strict_option(answer, options) for answer in answers]
    elif mode == "lenient":
        found = [lenient_option(answer, options) for answer in answers]
    elif mode == "words":
        found = [spelled_option(answer, options) for answer in answers]
    else:
        found = [upstream_option(answer, len(options)) for answer in answers]
    failed = UPSTREAM_UNPARSABLE if mode == "upstream" else UNPARSABLE
    return ParsedOptions(
        codes=np.array([failed if index is None else index for index in found], dtype=np.int64),
        parsed=np.array([index is not None for index in found], dtype=bool),
    )
