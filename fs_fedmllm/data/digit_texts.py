"""Sentences of the embedded data sets: requests that express one of four intents, and claims about a digit.

Every sentence is one template with its slots filled. The sentences of an intent are shuffled once
and cut into four parts that share no string, so that the tiny model is pre-trained on sentences that
no federated client and no test row uses.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product

import numpy as np

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

#: In the order of the options of ``digits_triage``.
INTENTS = ("billing", "repair", "travel", "health")

_WHO = ("i", "we", "my wife", "my boss", "our team", "the office", "a friend", "my uncle")
_WHEN = ("today", "this week", "since monday", "again", "last night", "after lunch", "for now", "at noon")
#: intent -> clauses; every sentence is ``{who} {clause} {when}`` or ``{when} {who} {clause}``.
_CLAUSES: Mapping[str, tuple[str, ...]] = {
    "billing": (
        "paid the invoice twice",
        "found a wrong fee",
        "want a refund",
        "got charged too much",
        "cannot read the receipt",
        "missed a card payment",
    ),
    "repair": (
        "broke the heater",
        "found a leaking pipe",
        "need a plumber",
        "heard the boiler rattle",
        "cannot fix the door lock",
        "saw a burnt socket",
    ),
    "travel": (
        "lost the train ticket",
        "booked a flight",
        "need a hotel room",
        "missed the ferry",
        "cannot find the passport",
        "want a window seat",
    ),
    "health": (
        "caught a bad fever",
        "need a doctor",
        "sprained an ankle",
        "had a headache",
        "cannot stop coughing",
        "want a vaccine shot",
    ),
}

#: Claims of ``digits_match``. The pre-training of the tiny model words its claims otherwise.
CLAIMS = (
    "somebody wrote a {word} here",
    "the digit on the card is {word}",
    "this must be a {word}",
)

#: Share of an intent's sentences in each part.
_SHARES = {"pretrain": 0.45, "train": 0.40, "val": 0.05, "test": 0.10}


def sentences(intent: str) -> list[str]:
    """All sentences of an intent, in a fixed order."""
    made = []
    for who, clause, when in product(_WHO, _CLAUSES[intent], _WHEN):
        made += [f"{who} {clause} {when}", f"{when} {who} {clause}"]
    return made


def split_sentences(seed: int) -> dict[str, dict[str, list[str]]]:
    """Part (``pretrain``, ``train``, ``val``, ``test``) -> intent -> sentences; no string is in two parts."""
    parts: dict[str, dict[str, list[str]]] = {part: {} for part in _SHARES}
    for index, intent in enumerate(INTENTS):
        pool = sentences(intent)
        order = np.random.default_rng([seed, index]).permutation(len(pool))
        start = 0
        for part, share in _SHARES.items():
            stop = start + round(share * len(pool))
            parts[part][intent] = [pool[i] for i in order[start:stop]]
            start = stop
    return parts
