from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fs_fedmllm.evaluation.parsing import ParsingError, lenient_option, parse_options, strict_option

HATEFUL = ["not-hateful", "hateful"]
CRISIS = [
    "affected_individuals",
    "infrastructure_and_utility_damage",
    "injured_or_dead_people",
    "missing_or_found_people",
    "rescue_volunteering_or_donation_effort",
    "vehicle_damage",
    "other_relevant_information",
    "not_humanitarian",
]


@pytest.mark.parametrize(
    ("answer", "hateful", "crisis"),
    [
        ("(A) not-hateful", 0, 0),
        ("Answer: (A)", 0, 0),
        ("Given this, (A)", 2, 6),
        ("( A )", 2, 2),
        ("I cannot determine", 2, 2),
        ("Based on the image, (A)", 1, 1),
        ("(C)", 2, 2),
        ("(H)", 2, 7),
        ("the answer is (B)", 1, 1),
        ("", 2, 2),
        ("ANSWER (B)", 0, 0),
    ],
)
def test_the_authors_parser(answer, hateful, crisis):
    assert parse_options([answer], HATEFUL, "upstream").codes.tolist() == [hateful]
    assert parse_options([answer], CRISIS, "upstream").codes.tolist() == [crisis]


def their_code(answer: str, letters: str, pattern: str) -> int:
    """The rule of their scripts written down once more, with their try/except."""
    try:
        match = re.findall(pattern, answer.replace("answer", "").replace("Answer", ""))[0]
        return list(letters).index(match.strip(" ").strip("()"))
    except Exception:
        return 2


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="ABCDGHI answer()A.\n-", max_size=20))
def test_the_authors_parser_on_any_text(answer):
    assert parse_options([answer], HATEFUL, "upstream").codes[0] == their_code(answer, "AB", r"[\(\ ]*[A-G][\)\ ]*")
    assert parse_options([answer], CRISIS, "upstream").codes[0] == their_code(
        answer, "ABCDEFGH", r"[\(\ ]*[A-H][\)\ ]*"
    )


def test_a_real_third_option_is_told_from_a_failure():
    parsed = parse_options(["(C) injured_or_dead_people", "no idea"], CRISIS, "upstream")
    assert parsed.codes.tolist() == [2, 2]
    assert parsed.parsed.tolist() == [True, False]
    assert parsed.unparsable_rate == 0.5


@pytest.mark.parametrize(
    ("answer", "option"),
    [
        ("(B) hateful", 1),
        ("  (A)\n", 0),
        ("(A) hateful", None),
        ("(C)", None),
        ("(A) not-hateful.", None),
        ("A", None),
        ("(b)", None),
    ],
)
def test_strict(answer, option):
    assert strict_option(answer, HATEFUL) == option


@pytest.mark.parametrize(
    ("answer", "option"),
    [
        ("( A )", 0),
        ("Given this, (A)", 0),
        ("(b)", 1),
        ("[B]", 1),
        ("**B**", 1),
        ("B)", 1),
        ("B", 1),
        ("B. hateful", 1),
        ("The answer is B", 1),
        ("Answer: A", 0),
        ("not-hateful", 0),
        ("It is Hateful!", 1),
        ("the meme(s) look hateful", 1),
        ("(A) or (B)", None),
        ("A person smiles", None),
        ("I cannot determine", None),
        ("hateful or not-hateful", None),
        ("", None),
        ("(C)", None),
        ("\u200b(\uff22)", None),
    ],
)
def test_lenient(answer, option):
    assert lenient_option(answer, HATEFUL) == option


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=40))
def test_no_text_breaks_a_parser(answer):
    strict = parse_options([answer], HATEFUL, "strict")
    lenient = parse_options([answer], HATEFUL, "lenient")
    assert strict.codes[0] in (-1, 0, 1)
    assert not strict.parsed[0] or lenient.codes[0] == strict.codes[0]


def test_rates_and_refusals():
    parsed = parse_options(["(A)", "A", "?", "(B) hateful"], HATEFUL)
    assert parsed.codes.tolist() == [0, 0, -1, 1]
    assert parsed.unparsable_rate == 0.25
    assert np.isnan(parse_options([], HATEFUL).unparsable_rate)
    with pytest.raises(ParsingError, match="strict, lenient, upstream"):
        parse_options(["(A)"], HATEFUL, "loose")
    with pytest.raises(ParsingError, match="not 1"):
        parse_options(["(A)"], ["only"])
