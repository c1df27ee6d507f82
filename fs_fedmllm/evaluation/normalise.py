"""The usual normalisation of short answers (VQA evaluation, Antol et al. 2015), so that spelling is not judged."""

from __future__ import annotations

import re

_NUMBERS = {
    "zero": "0",
    "one": "1",
    "two": "2",
    "three": "3",
    "four": "4",
    "five": "5",
    "six": "6",
    "seven": "7",
    "eight": "8",
    "nine": "9",
    "ten": "10",
}
_ARTICLES = {"a", "an", "the"}
_PUNCTUATION = re.compile(r"[;/\[\]\"{}()=+\\_<>@`?!.,:]")


def normalise(answer: str) -> str:
    """Lower case, no articles or punctuation, number words as digits, ``x ray`` and ``x-ray`` as ``xray``."""
    text = _PUNCTUATION.sub(" ", answer.lower().strip())
    text = re.sub(r"\bx[ -]rays?\b", "xray", text)
    words = [_NUMBERS.get(word, word) for word in text.split() if word not in _ARTICLES]
    return " ".join(words)


def same_answer(given: str, reference: str) -> bool:
    """Exact match after normalisation."""
    return normalise(given) == normalise(reference)
