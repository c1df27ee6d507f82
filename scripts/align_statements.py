"""What an alignment says about pictures: questions and answers, drawn from the table ``align_wordings.yaml``.

A base that is taught one wording learns that wording. So property, wording, form, options, their order, what stands
before the conversation and where the picture stands are all drawn, anew each time; and a part of the statements has a
note in the picture's place, since telling lettered options apart is learnt from words alone, and a picture costs more.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fs_fedmllm.data.radiographs import Picture
from fs_fedmllm.data.short_templates import bare_question
from fs_fedmllm.files.safe_yaml import parse_yaml

WORDINGS: Mapping[str, Any] = parse_yaml(
    (Path(__file__).resolve().parent / "align_wordings.yaml").read_text(encoding="utf-8")
)
PROPERTIES: Mapping[str, Mapping[str, Sequence[str]]] = WORDINGS["properties"]
#: The question that every line of the log asks, and the other alignment's only way to ask it.
ORGAN = PROPERTIES["organ"]["questions"][0]

SHARES: Mapping[str, Any] = WORDINGS["shares"]


@dataclass(frozen=True)
class Statement:
    """A question with its answer.

    Attributes:
        question: the user's turn, without the picture.
        answer: the assistant's.
        system: what stands before the conversation; empty for nothing.
        image_last: whether the picture stands behind the question.
    """

    question: str
    answer: str
    system: str = ""
    image_last: bool = False


def _one(rng: np.random.Generator, among: Sequence[Any]) -> Any:
    return among[int(rng.integers(len(among)))]


def _form(rng: np.random.Generator, shares: Mapping[str, float]) -> str:
    return list(shares)[int(rng.choice(len(shares), p=np.array(list(shares.values())) / sum(shares.values())))]


def lettered(options: Sequence[str]) -> str:
    """Options as the product lists them, each on a line of its own with its letter."""
    return "".join(f"\n({chr(65 + i)}) {option}" for i, option in enumerate(options))


def filled(wording: str, question: str, options: Sequence[str], separator: str = ", ", basis: str = "") -> str:
    """A wording with all that it leaves open.

    Args:
        wording: of the table.
        question: what is asked.
        options: what there is to choose from, in the order in which it is listed.
        separator: between two of them where they stand in one line.
        basis: what the product's form says that the answer is based on.
    """
    return (
        wording.replace("{lettered}", lettered(options))
        .replace("{bullets}", "".join(f"\n- {option}" for option in options))
        .replace("{options}", separator.join(options))
        .replace("{asked}", bare_question(question))
        .replace("{basis}", basis)
        .replace("{question}", question)
    )


def caption(said: Mapping[str, str], rng: np.random.Generator) -> str:
    """A sentence's filling from what is known of a picture: organ, and modality and plane where they are."""
    names = [name for name in ("modality", "plane") if said[name]]
    known = "both" if len(names) == 2 else names[0] if names else "neither"
    text: str = _one(rng, WORDINGS["captions"][known])
    return text.format(**said)


def about(picture: Picture, count: int, rng: np.random.Generator) -> list[Statement]:
    """Statements about a picture, which share what stands before them and where the picture stands.

    Args:
        picture: what its annotations do not say is not asked.
        count: how many.
        rng: draws all that is drawn.
    """
    system = _one(rng, WORDINGS["systems"]) if rng.random() < SHARES["system"] else ""
    last = rng.random() < SHARES["image_last"]
    return [dataclasses.replace(_about(picture, rng), system=system, image_last=last) for _ in range(count)]


def _about(picture: Picture, rng: np.random.Generator) -> Statement:
    said = {name: str(getattr(picture, name)) for name in PROPERTIES}
    known = [name for name in PROPERTIES if said[name]]
    # The organ is known of every picture, and what the others build on.
    name = "organ" if rng.random() < 0.6 else _one(rng, known)
    form = _form(rng, SHARES["picture"])
    if form == "sentence":
        if rng.random() < 0.5:
            question, answer = _one(rng, WORDINGS["beginnings"]), said["organ"]
        else:
            question = _one(rng, WORDINGS["requests"])
            answer = _one(rng, WORDINGS["sentences"]).format(organ=said["organ"])
            if rng.random() < 0.5:
                answer = f"{_capital(caption(said, rng))}."
    else:
        entry = PROPERTIES[name]
        asked = _asked(form, _one(rng, entry["questions"]), said[name], entry["words"], entry["others"], rng)
        question, answer = asked.question, asked.answer
    return Statement(question, answer)


def practised(rng: np.random.Generator) -> Statement:
    """A statement about a note in a picture's place: half of the notes are about a picture, half name a thing.

    Args:
        rng: draws all that is drawn.
    """
    form = _form(rng, SHARES["note"])
    if rng.random() < 0.5:
        said = {name: _one(rng, entry["words"]) for name, entry in PROPERTIES.items()}
        name = _one(rng, list(PROPERTIES))
        entry = PROPERTIES[name]
        told = caption(said, rng) if rng.random() < 0.5 else said[name]
        question, right = _one(rng, entry["questions"]), said[name]
        words, others = entry["words"], entry["others"]
    else:
        words, others = WORDINGS["things"], ()
        right = told = _one(rng, words)
        question = _one(rng, WORDINGS["thing_questions"])
    asked = _asked(form, question, right, words, others, rng)
    note = _one(rng, WORDINGS["notes"]).format(caption=told)
    return Statement(f"{_capital(note)}\n{asked.question}", asked.answer)


def _asked(
    form: str, question: str, right: str, words: Sequence[str], others: Sequence[str], rng: np.random.Generator
) -> Statement:
    """One form of a question whose right answer is known."""
    wrong = [word for word in words if word != right]
    if form == "open":
        return Statement(_one(rng, WORDINGS["open"]).replace("{question}", question), right)
    if form == "yes_no":
        said = right if rng.random() < 0.5 else _one(rng, wrong)
        wording = _one(rng, WORDINGS["yes_no"]).replace("{word}", said)
        return Statement(wording.replace("{question}", question), "yes" if said == right else "no")
    if rng.random() < 0.5:  # as many as there are words of the property, and of things
        options = [right, *(wrong[int(i)] for i in rng.permutation(len(wrong))[:3])]
    else:
        more = [*wrong, *others]
        options = [right, *(more[int(i)] for i in rng.permutation(len(more))[: int(rng.integers(1, 5))])]
    options = [options[int(i)] for i in rng.permutation(len(options))]
    wording, basis = _one(rng, WORDINGS[form]), _one(rng, WORDINGS["bases"])
    prompt = filled(wording, question, options, _one(rng, WORDINGS["separators"]), basis)
    answers = {"plain": right, "lettered": letter_of(options, right), "paired": paired(options, right)}
    return Statement(prompt, answers[form])


def letter_of(options: Sequence[str], right: str) -> str:
    """A lettered option as an answer, ``(B) chest``."""
    return f"({chr(65 + list(options).index(right))}) {right}"


def paired(options: Sequence[str], right: str) -> str:
    """An option before its letter, ``chest (B)``."""
    return f"{right} ({chr(65 + list(options).index(right))})"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
