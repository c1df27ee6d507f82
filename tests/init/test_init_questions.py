"""The questions that `init` proposes read as a person would ask."""

from __future__ import annotations

import pytest

from fs_fedmllm.tools.init.asking import is_property, is_yes_no, question_of, text_question_of

YES_NO, CLASSES = ("no", "yes"), ("mild", "severe", "none")


@pytest.mark.parametrize(
    ("name", "options", "question"),
    [
        ("abnormal", YES_NO, "Is this abnormal?"),
        ("infected", ("N", "Y"), "Is this infected?"),
        ("is_malignant", YES_NO, "Is this malignant?"),
        ("isCat", ("False", "True"), "Is this a cat?"),
        ("is_animal", YES_NO, "Is this an animal?"),
        ("has_fracture", YES_NO, "Is there any fracture?"),
        ("has_gall_stones", YES_NO, "Are there any gall stones?"),
        ("fracture", YES_NO, "Is there any fracture?"),
        ("water_damage_label", YES_NO, "Is there any water damage?"),
        ("smoker", YES_NO, "Smoker: yes or no?"),
        ("gerötet", ("ja", "nein"), "Gerötet: ja or nein?"),
        ("smoker", ("N", "Y"), "Smoker: yes or no?"),
        ("diagnosis", CLASSES, "What is the diagnosis?"),
        ("severity", CLASSES, "What is the severity?"),
        ("damageType", CLASSES, "What is the damage type?"),
        ("EKG_finding_label", CLASSES, "What is the EKG finding?"),
        ("result", ("negative", "positive"), "What is the result?"),
        ("findings", CLASSES, "What are the findings?"),
        ("abnormal", CLASSES, "Abnormal: which of these fits?"),
        ("Größe", CLASSES, "Größe: which of these fits?"),
        ("诊断", CLASSES, "诊断: which of these fits?"),
        ("label", CLASSES, "Which of these fits?"),
        ("target_class", YES_NO, "Which of these fits?"),
        ("fracture", ("0", "1"), "Fracture: which of these fits?"),
        ("🏥", CLASSES, "Which of these fits?"),
    ],
)
def test_a_question_for_a_label(name, options, question):
    assert question_of(name, options) == question


def test_what_is_a_property():
    assert all(map(is_property, ("abnormal", "has_fracture", "is_cat", "hateful", "infected", "pneumonia_label")))
    assert not any(
        map(is_property, ("label", "class", "gender", "site", "patient", "treatment", "grade", "Größe", ""))
    )
    assert is_yes_no(["Ja", "nein"]) and not is_yes_no(["0", "1"]) and not is_yes_no(["yes", "no", "unclear"])


def test_a_question_for_a_text():
    assert text_question_of("imageCaption") == "What would be a caption for this?"
    assert text_question_of("radiology_report") == "What should the report say?"
    assert text_question_of("answer") == ""
