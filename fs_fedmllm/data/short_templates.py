"""A short template made whole: from a question and its options, the eight prompts that nobody wrote down.

The words are those of the templates that ship, so a short template that asks their question makes their prompts, byte
for byte. What is written down stands, each of the eight by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

VARIANTS = ("original", "augmented")
CASES = ("both", "text", "image", "neither")
INSTRUCTION = "Select the best answer to the following multiple-choice question"
CLOSING = (
    "Answer with the option's letter from the given choices directly and only give the best option. "
    "The best answer is: "
)
#: The same where options have no letters.
CLOSING_IN_WORDS = "Answer with the best option in its own words and nothing else. The best answer is: "
#: What the original prompts say that the answer is based on. The augmented ones say the same in every case (FedMLLM,
#: section 4.1).
_BASED_ON = {"both": " based on the text and image", "text": " based on the text", "image": " based on the image"}
_AGNOSTIC = ", without considering the modality"
_OPEN = {"original": "{question}", "augmented": "Answer without considering the modality. {question}"}


def is_short(raw: Mapping[str, Any]) -> bool:
    """Whether a template leaves out one of the eight prompts."""
    return any(
        not isinstance(raw.get(variant), Mapping) or not set(CASES) <= set(raw[variant]) for variant in VARIANTS
    )


def choice_case(question: str, variant: str, case: str) -> dict[str, str]:
    """Basis and question of one of a choice's eight prompts.

    Args:
        question: what is asked, without its question mark.
        variant: ``original`` or ``augmented``.
        case: what the row shows.
    """
    basis = _AGNOSTIC if variant == "augmented" else _BASED_ON.get(case, "")
    return {"basis": basis, "question": question + basis}


def open_case(variant: str) -> str:
    """One of the eight prompts of a row's own question."""
    return _OPEN[variant]


def bare_question(question: str) -> str:
    """A question without its mark, which the prompt puts after what the answer is based on."""
    text = question.strip()
    return text.removesuffix("?").rstrip()
