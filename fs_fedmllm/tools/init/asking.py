"""A question in plain English for a column, from its name and its options; no word of it is more than a proposal.

A name in another language, or one that fits no form, is quoted as it is: ``Größe: which of these fits?``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from fs_fedmllm.data.column_words import folded, name_words, word_set
from fs_fedmllm.text_columns import capital

_YES = word_set("yes y true t ja j oui si evet present")
_NO = word_set("no n false f nein non hayir absent")
#: Words that say that a column is one, and nothing of what it is about.
_EMPTY = word_set("label labels class classes target y gold category categories gt code flag binary yn bool value")
_HAS = word_set("has have having with contains contain any shows show")
_IS = word_set("is are was be")
#: Beside the endings below, what can be said of something: is this ...?
_ADJECTIVES = word_set(
    "abnormal normal benign severe mild acute toxic dead alive visible safe unsafe urgent open sick ill healthy wet "
    "dry clean dirty fake real relevant malign male female pregnant spam correct rude blurry empty full wild new old"
)
_ADJECTIVE = re.compile(r"\w{2,}(ful|ous|less|able|ible|ive|ant)|\w{3,}[b-df-hj-np-tv-z]ed")
_NO_ADJECTIVES = word_set(
    "patient elephant plant restaurant archive objective event accident infant variant vegetable hundred"
)
#: What can be there or not: is there any ...?
_NOUNS = word_set(
    "fracture pneumonia tumor tumour lesion disease cancer infection damage rain fire smoke water flood defect crack "
    "edema oedema effusion opacity nodule mass bleeding hemorrhage haemorrhage pain fever swelling redness rash wound "
    "ulcer cataract glaucoma retinopathy pneumothorax rust mould mold helmet animal vehicle person text irony sarcasm"
)
#: What there is one of: what is the ...?
_KINDS = word_set(
    "diagnosis severity grade stage type status outcome finding verdict sentiment topic damage infection species "
    "disease condition colour color kind result level state quality breed size shape material cause emotion intent "
    "language risk priority season weather category damage score rating sex gender side view position organ modality "
    "behaviour behavior activity age plan action cost reason"
)
_SEVERAL = word_set("findings symptoms diagnoses causes results")
#: What rows whose answer is a text are asked, by a word of the column's name.
_TEXTS = {
    "caption": "What would be a caption for this?",
    "title": "What would be a title for this?",
    "headline": "What would be a headline for this?",
    "summary": "What is this about, in a few sentences?",
    "abstract": "What is this about, in a few sentences?",
    "description": "What is shown here?",
    "report": "What should the report say?",
    "findings": "What are the findings?",
    "impression": "What is the impression?",
    "diagnosis": "What is the diagnosis?",
    "note": "What should the note say?",
    "recommendation": "What should be done?",
}


def is_yes_no(options: Sequence[str]) -> bool:
    """Whether two options say yes and no."""
    words = {folded(option).strip().rstrip(".") for option in options}
    return len(options) == 2 and bool(words & _YES) and bool(words & _NO)


def is_property(name: str) -> bool:
    """Whether a column's name says that it holds yes or no, so that 0 and 1 in it are that: ``abnormal``."""
    words = [word.lower() for word in name_words(name)]
    while len(words) > 1 and words[-1] in _EMPTY:
        words = words[:-1]
    if len(words) > 1 and words[0] in _HAS | _IS:
        return True
    return bool(words) and (_is_adjective(words[-1]) or words[-1] in _NOUNS)


def question_of(name: str, options: Sequence[str]) -> str:
    """What every row is asked, where its answer is one of the options.

    Args:
        name: of the label's column.
        options: in letter order.
    """
    words = [_as_said(word) for word in name_words(name)]
    while words and words[-1].lower() in _EMPTY:
        words = words[:-1]
    if not words:
        return "Which of these fits?"
    first, rest, said = words[0].lower(), " ".join(words[1:]), " ".join(words)
    yes_no = is_yes_no(options)
    if yes_no and rest and first in _HAS:
        return _is_there(rest)
    if rest and first in _IS and (yes_no or _is_adjective(words[-1])):
        article = "" if _is_adjective(words[-1]) else "an " if rest[0] in "aeiou" else "a "
        return f"Is this {article}{rest}?"
    if yes_no and _is_adjective(words[-1]):
        return f"Is this {said}?"
    if yes_no and words[-1] in _NOUNS:
        return _is_there(said)
    if yes_no:
        yes, no = sorted(options, key=lambda option: folded(option).strip().rstrip(".") in _NO)
        return f"{capital(said)}: {yes if len(yes) > 1 else 'yes'} or {no if len(no) > 1 else 'no'}?"
    if words[-1] in _KINDS:
        return f"What is the {said}?"
    if words[-1] in _SEVERAL:
        return f"What are the {said}?"
    return f"{capital(said)}: which of these fits?"


def text_question_of(name: str) -> str:
    """What every row is asked, where a column's text is the answer; empty where its name does not say it."""
    words = [word.lower() for word in name_words(name)]
    return next((_TEXTS[word] for word in reversed(words) if word in _TEXTS), "")


def _is_there(what: str) -> str:
    several = what.endswith("s") and not what.endswith(("ss", "us", "is"))
    return f"{'Are' if several else 'Is'} there any {what}?"


def _is_adjective(word: str) -> bool:
    word = word.lower()
    return word in _ADJECTIVES or (word not in _NO_ADJECTIVES and _ADJECTIVE.fullmatch(word) is not None)


def _as_said(word: str) -> str:
    """An English word in lower case; an abbreviation, and a word with other letters, as it is written."""
    return word if not word.isascii() or (word.isupper() and 1 < len(word) < 5) else word.lower()
