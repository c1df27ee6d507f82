"""The usual normalisation of short answers (VQA evaluation, Antol et al. 2015), so that spelling is not judged."""

from __future__ import annotations

import re

_NUMBERS = {
    word: str(value) for value, word in enumerate(["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"])
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
