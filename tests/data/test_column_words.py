"""The words in a heading, whatever language it is in."""

from __future__ import annotations

import unicodedata

import pytest

from fs_fedmllm.data.column_words import folded, is_prose, name_words, words_of


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("imagePath2", ["image", "Path", "2"]),
        ("XRayID", ["X", "Ray", "ID"]),
        ("image_path", ["image", "path"]),
        ("Größe (cm)", ["Größe", "cm"]),
        ("ÜbersichtBild", ["Übersicht", "Bild"]),
        ("numéro_du_patient", ["numéro", "du", "patient"]),
        ("HASTA_NUMARASI", ["HASTA", "NUMARASI"]),
        ("CT图像", ["CT", "图像"]),
        ("रोगी_नाम", ["रोगी", "नाम"]),
        (unicodedata.normalize("NFD", "Größe"), ["Größe"]),
        ("--", []),
    ],
)
def test_a_name_falls_into_its_words(name, words):
    assert name_words(name) == words


def test_words_are_compared_without_case_and_accents():
    assert words_of("HÔPITAL_n°") == {"hopital", "n"}
    assert folded("İYİ") == folded("iyi") == folded("ıyi") and folded("blaß") == folded("blass")
    assert words_of("患者编号") == {"患者编号", "患者", "者编", "编号"}
    assert folded("がん") != folded("かん")  # accents of Japanese make another letter


def test_a_sentence_needs_no_blanks():
    assert is_prose("这是一个关于患者左侧肺部情况的描述。") and not is_prose("左侧肺炎")
    assert is_prose("Der Hund hinkt seit gestern auf dem linken Hinterbein.") and not is_prose("links hinten")
