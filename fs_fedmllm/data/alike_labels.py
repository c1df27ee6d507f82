"""Labels that may be one label written in two ways, or none at all: each would be an option of its own."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping
from itertools import combinations

from fs_fedmllm.data.client_names import shown_name
from fs_fedmllm.data.columns import NOTHING

#: A name within one letter of another is a slip only where it has at most this share of the other's rows.
_RARE = 0.2
#: Words of fewer characters are told apart by one letter: grade A and B, type I and II.
_SHORTEST = 5
#: Sentences of one kind.
_MOST = 5


def alike_sentences(*splits: Mapping[str, int]) -> list[str]:
    """What there is to say of labels that look like one, or like nothing.

    Args:
        *splits: rows of each label, a mapping for each split.
    """
    counts = sum((Counter(split) for split in splits), Counter[str]())
    there = {name: count for name, count in counts.items() if count}
    pairs = [
        (first, second)
        for first, second in combinations(sorted(there, key=lambda name: (there[name], name)), 2)
        if _key(first) == _key(second) or (there[first] <= _RARE * there[second] and _slip(first, second))
    ]
    sentences = [
        f"The labels {shown_name(first)!r} ({_rows(there[first])}) and {shown_name(second)!r} "
        f"({_rows(there[second])}) may be one, written in two ways. Each is an option of its own: "
        "where they mean the same, write them alike."
        for first, second in pairs[:_MOST]
    ]
    if len(pairs) > _MOST:
        sentences.append(f"{len(pairs) - _MOST:,} more pairs of labels may be one, written in two ways.")
    sentences += [
        f"The label {shown_name(name)!r} ({_rows(count)}) is what people write where there is nothing, and is an "
        "option like any other. If these rows have no label, take them out."
        for name, count in there.items()
        if name.strip().lower() in NOTHING
    ]
    return sentences


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count:,} rows"


def _key(name: str) -> str:
    """The name without case, with a blank for what divides its words."""
    return re.sub(r"(?<=\w)[\s_-]+(?=\w)", " ", unicodedata.normalize("NFKC", name).casefold().strip())


def _slip(first: str, second: str) -> bool:
    """Whether one word of many letters differs by one letter, or by two that are swapped, and not at its beginning."""
    words = [name.casefold().split() for name in (first, second)]
    if len(words[0]) != len(words[1]):
        return False
    differ = [(one, other) for one, other in zip(*words, strict=True) if one != other]
    return len(differ) == 1 and min(map(len, differ[0])) >= _SHORTEST and _near(*differ[0])


def _near(one: str, other: str) -> bool:
    start = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    left, right = one[start:], other[start:]
    while left and right and left[-1] == right[-1]:
        left, right = left[:-1], right[:-1]
    if not start or not (left + right).isalpha():
        return False
    return max(len(left), len(right)) == 1 or (len(left) == 2 and left == right[::-1])
