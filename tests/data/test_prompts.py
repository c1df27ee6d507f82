"""The prompts of the authors' released code, written out; 8 cases for each of two sets."""

from __future__ import annotations

import pytest

from fs_fedmllm.data.sample import Sample
from fs_fedmllm.data.template_file import load_template

HEAD = "Select the best answer to the following multiple-choice question"
TAIL = (
    "Answer with the option's letter from the given choices directly and only give the best option. "
    "The best answer is: "
)
OPTIONS = {
    "hateful_memes": "\n(A) not-hateful\n(B) hateful\n",
    "crisismmd": (
        "\n(A) affected_individuals\n(B) infrastructure_and_utility_damage\n(C) injured_or_dead_people"
        "\n(D) missing_or_found_people\n(E) rescue_volunteering_or_donation_effort\n(F) vehicle_damage"
        "\n(G) other_relevant_information\n(H) not_humanitarian\n"
    ),
}
ORIGINAL = {
    ("hateful_memes", "both"): (" based on the text and image", "Is the content hateful based on the text and image"),
    ("hateful_memes", "text"): (" based on the text", "Is the content hateful based on the text"),
    ("hateful_memes", "image"): (" based on the image", "Is the content hateful based on the image"),
    ("hateful_memes", "neither"): ("", "Is the content hateful"),
    ("crisismmd", "both"): (
        " based on the text and image",
        "What is the humanitarian category based on the image and text",
    ),
    ("crisismmd", "text"): (" based on the text", "What is the humanitarian category based on the text"),
    ("crisismmd", "image"): (" based on the image", "What is the humanitarian category based on the image"),
    ("crisismmd", "neither"): ("", "What is the humanitarian category"),
}
AUGMENTED = {
    "hateful_memes": "Is the content hateful, without considering the modality",
    "crisismmd": "What is the humanitarian category, without considering the modality",
}


def sample(case: str) -> Sample:
    return Sample(
        id="1",
        image="/img/1.png" if case in ("both", "image") else None,
        text="some words" if case in ("both", "text") else None,
        answer="(A) x",
    )


@pytest.mark.parametrize(("name", "case"), list(ORIGINAL))
def test_original(name, case):
    basis, question = ORIGINAL[name, case]
    mark = "<image>\n" if case in ("both", "image") else ""
    text = "some words\n" if case in ("both", "text") else ""
    expected = f"{mark}{HEAD}{basis}.\n{text}{question}?\nOptions:{OPTIONS[name]}{TAIL}"
    assert load_template(name).record_prompt(sample(case)) == expected


@pytest.mark.parametrize(("name", "case"), list(ORIGINAL))
def test_augmented(name, case):
    mark = "<image>\n" if case in ("both", "image") else ""
    text = "some words\n" if case in ("both", "text") else ""
    expected = (
        f"{mark}{HEAD}, without considering the modality.\n{text}{AUGMENTED[name]}?\nOptions:{OPTIONS[name]}{TAIL}"
    )
    assert load_template(name).record_prompt(sample(case), "augmented") == expected


def test_one_prompt_spelled_out_in_full():
    row = Sample(id="1", image="/img/1.png", text="look", answer="(B) hateful")
    assert load_template("hateful_memes").record_prompt(row) == (
        "<image>\nSelect the best answer to the following multiple-choice question based on the text and image.\n"
        "look\nIs the content hateful based on the text and image?\nOptions:\n(A) not-hateful\n(B) hateful\n"
        "Answer with the option's letter from the given choices directly and only give the best option. "
        "The best answer is: "
    )


def test_a_medical_prompt_is_the_question_alone():
    template = load_template("medical")
    row = Sample(id="1", image="/img/1.png", text=None, answer="Yes", question="Is it broken?")
    assert template.record_prompt(row) == "<image>\nIs it broken?"
    assert template.prompt(row.showing(image=False, text=False)) == "Is it broken?"
    assert template.prompt(row, "augmented") == "Answer without considering the modality. Is it broken?"


def test_answers():
    assert load_template("hateful_memes").answer(1) == "(B) hateful"
    assert load_template("crisismmd").answer(7) == "(H) not_humanitarian"


def test_a_template_is_parsed_once_and_again_when_its_file_is_another(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("question: Which one?\noptions: [a, b]\n")
    first = load_template(file)
    assert load_template(file) is first
    file.write_text("question: Which one?\noptions: [a, c]\n")
    assert load_template(file).options == ("a", "c") and first.options == ("a", "b")
