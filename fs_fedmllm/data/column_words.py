"""The words in the names of columns, in any language's letters, and whether a value reads like a sentence."""

from __future__ import annotations

import re
import unicodedata

#: In a name's kinds of letters (see ``_kind``): ``XRay`` is X and Ray, ``imagePath2`` is image, Path and 2.
_WORD = re.compile(r"U+(?!l)|U?l+|o+|d+")
_KINDS = {"Lu": "U", "Lt": "U", "Ll": "l", "Nd": "d"}
#: Letters of languages that write no blanks between words: Thai and its neighbours, Japanese, Chinese.
_UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")
#: Accents of Latin, Greek and Cyrillic letters; those of other scripts make other letters.
_ACCENTS = re.compile("[\u0300-\u036f]")
#: So many of them are about five words.
_SENTENCE = 12


def word_set(text: str) -> frozenset[str]:
    """Words with blanks between them."""
    return frozenset(text.split())


#: Words in the names of columns that hold images, paths, texts.
IMAGE_WORDS = word_set(
    "image images img imgs picture pictures pic pics photo photos photograph pixel pixels xray xrays radiograph"
    " jpg jpeg png"
)
PATH_WORDS = word_set("path paths file files name filename filepath uri url src bytes data the input")
TEXT_WORDS = word_set(
    "text texts caption captions note notes report reports sentence sentences content contents description body "
    "comment tweet post title headline message transcript abstract summary passage paragraph document review "
    "utterance narrative story ocr findings impression history complaint symptoms context article txt"
)
#: A name with one of these is about a text, or is what the model is to say, and is no modality.
NO_TEXT_WORDS = word_set(
    "id ids index label labels class category type kind lang language length len count num n date time source url "
    "uri link path file hash sha md5 license author citation answer answers question response completion output "
    "target rationale explanation reasoning solution lecture hint options choices version prompt image img"
)
#: Words in the names of columns that hold what a task needs of every row.
REQUIRED_WORDS = {
    "question": word_set("question questions query instruction prompt input q"),
    "answer": word_set("answer answers output response completion target reply"),
    "label": word_set("label labels class category target answer gold y"),
}


def name_words(name: str) -> list[str]:
    """The words in a column's name, in their order and as they are written: ``imagePath2`` is image, Path and 2."""
    text = unicodedata.normalize("NFC", name)
    kinds = ""
    for letter in text:
        kinds += _kind(letter, kinds[-1:])
    return [text[found.start() : found.end()] for found in _WORD.finditer(kinds)]


def _kind(letter: str, before: str) -> str:
    """``U`` upper case, ``l`` lower case, ``o`` of a script without cases, ``d`` digit, ``-`` no part of a word."""
    category = unicodedata.category(letter)
    if category[0] == "M":  # a vowel sign, or an accent that has no letter of its own
        return before if before else "-"
    return _KINDS.get(category, "o" if category[0] == "L" else "-")


def folded(word: str) -> str:
    """A word as it is compared: without case and accents, so that ``İYİ``, ``iyi`` and ``ıyi`` are one."""
    parts = unicodedata.normalize("NFKD", word.casefold())
    return unicodedata.normalize("NFC", _ACCENTS.sub("", parts)).replace("ı", "i")


def words_of(name: str) -> set[str]:
    """The words in a column's name, folded; of a script without blanks also each pair of letters in a row."""
    words = {folded(word) for word in name_words(name)}
    pairs = {
        word[i : i + 2] for word in words if _UNSPACED.search(word) for i in range(len(word) - 1)
    }  # 患者编号: a patient's number
    return words | pairs


def is_phrase(text: str) -> bool:
    """Whether a text is several words, as notes are and names of classes seldom: ``edges red and warm``."""
    words = [word for word in text.split() if any(letter.isalpha() for letter in word)]
    return len(words) >= 3 or len(_UNSPACED.findall(text)) >= _SENTENCE // 2


def is_prose(text: str) -> bool:
    """Whether a text is as long as a sentence."""
    return (len(text) >= 30 and len(text.split()) >= 5) or len(_UNSPACED.findall(text)) >= _SENTENCE
