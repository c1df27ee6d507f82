"""Labels that may be one label written in several ways, or none at all: each would be an option of its own."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence

from fs_fedmllm.data.client_names import shown_name
from fs_fedmllm.data.column_words import folded
from fs_fedmllm.data.columns import NOTHING
from fs_fedmllm.data.joined import joined

#: A name within one letter of another is a slip only where it has at most this share of the other's rows.
_RARE = 0.2
#: Words of fewer characters are told apart by one letter: grade A and B, type I and II.
_SHORTEST = 5
#: Sentences of one kind.
_MOST = 5
#: Ways to write one answer, folded; a letter goes with the word that it begins.
_SAME = {
    "yes": "yes true ja oui si evet positive positiv positif pos +",
    "no": "no false nein non hayir negative negativ negatif neg -",
    "male": "male man mann mannlich masculin homme erkek",
    "female": "female woman frau weiblich feminin femme kadin",
    "unknown": "unknown unk unklar unbekannt inconnu ?",
    "normal": "normal norm nl",
}
_MEANS = {way: meaning for meaning, ways in _SAME.items() for way in ways.split()}
#: Numbers are a way to write yes and no, beside somebody's yes or no.
_NUMBERS = {"1": "yes", "0": "no"}
_NUMBER = re.compile(r"[-+]?\d{1,15}(\.\d{1,15})?")
_ROMAN = re.compile(r"x{0,3}(ix|iv|v?i{0,3})")


def alike_sentences(*splits: Mapping[str, int]) -> list[str]:
    """What there is to say of labels that look like one, or like nothing.

    Args:
        *splits: rows of each label, a mapping for each split.
    """
    counts = sum((Counter(split) for split in splits), Counter[str]())
    there = {name: count for name, count in counts.items() if count}
    found = _alike(there)
    sentences = []
    for names in found[:_MOST]:
        *others, last = [f"{shown_name(name)!r} ({_rows(there[name])})" for name in names]
        ways = "two" if len(names) == 2 else str(len(names))
        sentences.append(
            f"The labels {', '.join(others)} and {last} may be one, written in {ways} ways. Each is an option of its "
            "own: where they mean the same, write them alike."
        )
    if len(found) > _MOST:
        sentences.append(f"{len(found) - _MOST:,} more sets of labels may be one each, written in several ways.")
    sentences += [
        f"The label {shown_name(name)!r} ({_rows(count)}) is what people write where there is nothing, and is an "
        "option like any other. If these rows have no label, take them out."
        for name, count in there.items()
        if name.strip().lower() in NOTHING
    ]
    return sentences


def _alike(there: Mapping[str, int]) -> list[list[str]]:
    """Sets of two or more names that may be one; the rarest first, in each and among them."""
    names = sorted(there, key=lambda name: (there[name], name))
    keys: list[list[Hashable]] = [[("spelt", key) for key in _spellings(name)] for name in names]
    for name, own in zip(names, keys, strict=True):
        if _NUMBER.fullmatch(number := name.strip().replace(",", ".")):  # 1 and 1.0, as pandas writes it
            own.append(("number", float(number)))
    for own, meaning in zip(keys, _meanings(names), strict=True):
        own.append(("means", meaning))
    for i, first in enumerate(names):
        for j in range(i + 1, len(names)):
            if there[first] <= _RARE * there[names[j]] and _slip(first, names[j]):
                keys[i].append(("slip", i, j))
                keys[j].append(("slip", i, j))
    sets: dict[int, list[str]] = {}
    for name, first_one in zip(names, joined(keys), strict=True):
        sets.setdefault(first_one, []).append(name)
    return [members for members in sets.values() if len(members) > 1]


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count:,} rows"


def _spellings(name: str) -> set[str]:
    """The name without case and accents, with a blank for what divides its words; umlauts also as two letters."""
    umlauts = re.sub("[äöü]", lambda found: {"ä": "ae", "ö": "oe", "ü": "ue"}[found[0]], name.casefold())
    return {re.sub(r"(?<=\w)[\s_-]+(?=\w)", " ", folded(way).strip()) for way in (name, umlauts)}


def _meanings(names: Sequence[str]) -> list[str]:
    """What each name means, as far as it is a well-known way to write something; else the name itself, folded."""
    plain = [folded(name).strip().rstrip(".") for name in names]
    means = [_MEANS.get(name, name) for name in plain]
    found = [
        _NUMBERS[name] if _NUMBERS.get(name) in means else meaning for name, meaning in zip(plain, means, strict=True)
    ]
    for i, letter in enumerate(plain):
        if len(letter) == 1 and letter.isalpha():
            begun = {
                meaning
                for name, meaning in zip(plain, means, strict=True)
                if len(name) > 1 and name.isalpha() and name[0] == letter and not _ROMAN.fullmatch(name)
            }
            word = begun.pop() if len(begun) == 1 else ""
            if word in _SAME or len(word) > 2:
                found[i] = word
    return found


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
    # Letters of a script with cases alone: a Chinese one is a word.
    if not start or not all(c.islower() for c in left + right):
        return False
    return max(len(left), len(right)) == 1 or (len(left) == 2 and left == right[::-1])
