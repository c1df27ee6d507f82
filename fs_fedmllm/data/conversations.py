"""Rows in TRL's form: ``messages``, or ``prompt`` and ``completion``, with ``images``; read and written.

``conversations`` in ShareGPT's form are read too.

A row is one question and one answer: a user's turn, with a system's before it or without, and an assistant's. What the
user says is the row's question where the template's task is ``vqa``; where it is ``choice``, it is the row's text, or,
if it is a finished prompt of the template, the text in it. A system's turn is put in front of the user's, on a line of
its own: the templates of some families have no place for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fs_fedmllm.data.columns import missing
from fs_fedmllm.data.findings import RowError
from fs_fedmllm.data.records import parse_prompt
from fs_fedmllm.data.row_values import Row
from fs_fedmllm.data.sample import Sample
from fs_fedmllm.data.template import Template

#: Columns that hold a conversation.
MESSAGES, PROMPT, COMPLETION = ("messages", "conversations"), "prompt", "completion"
#: Columns of rows of preferences, which TRL's ``DPOTrainer`` takes; nothing here learns from what was rejected.
PREFERENCE = ("chosen", "rejected")
#: What a conversation says, and a column beside it would say again.
_SAID = ("text", "question", "label", "answer")
#: What ShareGPT's turns, ``{from: human, value: ...}``, call the roles.
_SHAREGPT = {"human": "user", "gpt": "assistant"}
_ROLES = ("system", "user", "assistant")


def conversation_columns(row: Row) -> tuple[str, ...]:
    """The columns of a row that hold its conversation; none if it has none."""
    for name in MESSAGES:
        if not missing(row.get(name)):
            return (name,)
    if not missing(row.get(PROMPT)) and not missing(row.get(COMPLETION)):
        return (PROMPT, COMPLETION)
    return ()


def told(row: Row, where: str, template: Template) -> Row:
    """A row with the fields of own data in the place of its conversation; one without a conversation is as it was.

    Args:
        row: as the file has it, images not decoded.
        where: ``file:row``.
        template: the run's.

    Raises:
        DataError: the conversation is not one question and one answer, another column says the same again, or the
            row says which of two answers is preferred.
    """
    if not any(missing(row.get(name)) for name in PREFERENCE):
        raise RowError(
            where,
            "the row has chosen and rejected, a preference (TRL's DPO), and training here is on right answers alone.",
            "Write prompt and the chosen answer as completion, and take rejected out (docs/trl.md says why).",
        )
    columns = conversation_columns(row)
    if not columns:
        return row
    if again := [name for name in _SAID if not missing(row.get(name))]:
        problem = f"the row has {' and '.join(columns)}, and a column {again[0]} that says the same."
        raise RowError(where, problem, f"Take {again[0]} or {columns[0]} out.")
    turns = _turns(row, columns, where)
    question = "\n".join(text for role, text, _ in turns if role != "assistant" and text)
    answer = turns[-1][1].strip()
    if not answer:
        raise RowError(where, "the assistant's answer is empty.", "Write it, or leave the row out.")
    rest = {name: value for name, value in row.items() if name not in columns}
    shown = [image for _, _, images in turns for image in images if image is not None]
    if shown:
        if not missing(row.get("images")) or not missing(row.get("image")):
            problem = "the conversation holds an image, and so does another column."
            raise RowError(where, problem, "Keep it in one place.")
        rest["images"] = shown
    if template.task == "vqa":
        return {**rest, "question": question, "answer": answer}
    pictured = any(not missing(rest.get(name)) for name in ("image", "images"))
    return {**rest, "text": _text(question, answer, pictured, template, where), "answer": answer}


def _text(prompt: str, answer: str, pictured: bool, template: Template, where: str) -> str | None:
    """The text of a choice row: the user's, or what a finished prompt of the template holds."""
    try:
        return parse_prompt(
            Sample("", "image" if pictured else None, None, answer, source=where), prompt, template
        ).text
    except RowError:
        return prompt or None


def _turns(row: Row, columns: Sequence[str], where: str) -> list[tuple[str, str, list[Any]]]:
    """The conversation's turns: who, what, and the images that stand in it."""
    if columns[0] in MESSAGES:
        turns = _messages(row[columns[0]], columns[0], "", where)
    else:
        turns = _messages(row[PROMPT], PROMPT, "user", where) + _messages(
            row[COMPLETION], COMPLETION, "assistant", where
        )
    roles = [role for role, _, _ in turns]
    if [role for role in roles if role != "system"] != ["user", "assistant"] or "system" in roles[1:]:
        problem = f"the conversation's turns are {', '.join(roles)}."
        remedy = "A row is one user's turn and one answer, perhaps behind a system's: write further turns as rows."
        raise RowError(where, problem, remedy)
    return turns


def _messages(value: Any, column: str, alone: str, where: str) -> list[tuple[str, str, list[Any]]]:
    if isinstance(value, str) and alone:
        return [(alone, value, [])]
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, list | tuple) or not all(isinstance(turn, Mapping) for turn in value):
        problem = f"{column} is not a list of turns, each with a role and a content."
        raise RowError(where, problem, "Write it as [{role: user, content: ...}, ...].")
    turns = []
    for turn in value:
        role, said = turn.get("role"), turn.get("content")
        if "from" in turn and "role" not in turn:
            role, said = _SHAREGPT.get(str(turn["from"]), turn["from"]), turn.get("value")
        if role not in _ROLES:
            raise RowError(where, f"a turn of {column} has the role {role!r}.", f"Roles are {', '.join(_ROLES)}.")
        turns.append((role, *_content(said, column, where)))
    return turns


def _content(value: Any, column: str, where: str) -> tuple[str, list[Any]]:
    """A turn's text and images; a part without a picture of its own stands for one of ``images``."""
    if isinstance(value, str):
        return value, []
    if not isinstance(value, list | tuple):
        raise RowError(where, f"a turn of {column} has no content.", "Write it, or leave the row out.")
    texts: list[str] = []
    images: list[Any] = []
    for part in value:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind == "text" and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif kind in ("image", "image_url"):
            own = [part.get(name) for name in ("image", "image_url", "url", "path") if not missing(part.get(name))]
            images += own[:1]
        else:
            problem = f"a turn of {column} holds a part of type {kind!r}."
            raise RowError(where, problem, "Parts are {type: text, text: ...} and {type: image}.")
    return "\n".join(texts), images


def conversation(sample: Sample, template: Template, variant: str = "original") -> dict[str, Any]:
    """A row in TRL's prompt-completion form, without its image: the finished prompt and the answer.

    Args:
        sample: what the client may see of a row.
        template: makes the prompt, by what the row shows.
        variant: ``original`` or ``augmented``.
    """
    return {
        PROMPT: [{"role": "user", "content": template.prompt(sample, variant)}],
        COMPLETION: [{"role": "assistant", "content": template.answer_of(sample)}],
    }
