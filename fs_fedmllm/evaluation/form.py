"""Whether generated answers have the form that was asked for at all: a right answer is out of reach without it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fs_fedmllm.evaluation.normalise import normalise
from fs_fedmllm.evaluation.predictions import Prediction

#: Examples that are shown.
EXAMPLES = 3
#: How much longer than the longest right answer an answer may be, in words.
_LONGER = 2


def out_of_form(predictions: Sequence[Prediction]) -> list[Prediction]:
    """The generated answers that cannot be right whatever the question is.

    An answer of options is one from which no option could be read. A written answer is one that is empty, one of more
    than twice the words of the longest right answer, or, to a closed question, one that is the right answer of no
    closed question here.

    Args:
        predictions: of one view; scored options have no form and are left out.
    """
    written = [p for p in predictions if p.reference is not None and p.answer is not None]
    closed = {normalise(p.reference or "") for p in written if p.kind == "closed"}
    most = _LONGER * max((len((p.reference or "").split()) for p in written), default=0)

    def wrong(p: Prediction) -> bool:
        if p.answer is None:
            return False
        if p.reference is None:
            return p.decision is not None and p.decision < 0
        said = normalise(p.answer)
        return not said or len(p.answer.split()) > most or (p.kind == "closed" and said not in closed)

    return [p for p in predictions if wrong(p)]


def form_figures(predictions: Sequence[Prediction]) -> dict[str, Any] | None:
    """What to say of a run most of whose answers lack the form asked for; None for any other.

    Args:
        predictions: of one view.

    Returns:
        ``rows``, ``of``, and ``examples`` with ``id``, ``question``, ``right`` and ``answer``.
    """
    generated = [p for p in predictions if p.answer is not None]
    found = out_of_form(generated)
    if 2 * len(found) <= len(generated):
        return None
    examples = [
        {"id": p.id, "question": p.question, "right": p.reference, "answer": p.answer} for p in found[:EXAMPLES]
    ]
    return {"rows": len(found), "of": len(generated), "examples": examples}


def said_of_form(figures: dict[str, Any]) -> str:
    """:func:`form_figures` in a sentence."""
    shown = "; ".join(
        f"{e['answer'][:60]!r}" + (f" where {e['right'][:40]!r} is right" if e["right"] is not None else "")
        for e in figures["examples"]
    )
    return f"{figures['rows']} of {figures['of']} answers do not have the form asked for, such as {shown}"
