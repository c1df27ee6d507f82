"""What a row is to be answered with: the task, the column of labels or answers, and the question."""

from __future__ import annotations

import re
from collections.abc import Sequence

from fs_fedmllm.data.client_names import shown_name
from fs_fedmllm.data.column_words import folded, name_words
from fs_fedmllm.data.template import LETTERS
from fs_fedmllm.errors import ConfigError
from fs_fedmllm.tools.init import headings
from fs_fedmllm.tools.init.asking import text_question_of
from fs_fedmllm.tools.init.looking import Column
from fs_fedmllm.tools.init.options import choose_options, say_lacking
from fs_fedmllm.tools.init.proposal import Draft, listed

#: A day, as people and computers write it, at the beginning of a text.
_DATE = re.compile(r"\d{4}-\d{1,2}-\d{1,2}\b|\d{1,2}([./-])\d{1,2}\1(\d{4}|\d\d)\b")
#: Rows of a conversation, which are read by themselves.
TURNS = ({"messages"}, {"conversations"}, {"prompt", "completion"})


def turns_of(draft: Draft) -> set[str]:
    """The columns of a conversation; none where rows are no conversations."""
    return next((turns for turns in TURNS if turns <= draft.found.columns.keys()), set[str]())


def choose_task(draft: Draft) -> None:
    """Decide between options and answers in words, and what of the rows is asked and answered.

    Raises:
        ConfigError: the label has one value, or more than a choice has options.
    """
    told, made = draft.told, draft.made
    if turns := turns_of(draft):
        made.task = "vqa"
        return made.say("task", "open answers", f"{' and '.join(sorted(turns))} hold conversations")
    if not draft.said("question"):
        _guess_question(draft)
    if told.task == "vqa" or (not told.task and "question" in made.columns and "label" not in told.columns):
        made.task = "vqa"
        made.say("task", "open answers", "you said so (--task)" if told.task else "rows bring a question each")
        return _answer(draft)
    if not draft.said("label"):
        _guess_label(draft)
    if "label" in made.columns:
        made.task = "choice"
        if not told.task:
            made.say("task", "choice", "rows bring a label each")
        return choose_options(draft)
    if not made.doubts and not told.task and (draft.named(headings.ANSWER) or "answer" in told.columns):
        made.task = "vqa"
        made.say("task", "open answers", "rows bring an answer and no label")
        return _answer(draft)
    alone = [c for c in draft.named(headings.LABEL) if len(c.values) == 1 and not c.many]
    if alone and not made.doubts:
        raise ConfigError(
            f"The column {shown_name(alone[0].name)!r} has one value in all rows, {listed(alone[0].values)}: "
            "there is nothing to tell apart. Add rows of another class, or name another column (--label, "
            "--answer)."
        )
    if not any(doubt.option == "label" for doubt in made.doubts):
        draft.doubt("label", "Which column holds the label (or say --answer)?", [c.name for c in draft.free()])


def _guess_question(draft: Draft) -> None:
    # Rows of instructions: what is put in is asked, what comes out is the answer.
    pair = headings.PAIR if {c.name.lower() for c in draft.free()} >= headings.PAIR else frozenset()
    likely = [column for column in draft.named(headings.QUESTION | (pair & {"input"})) if not column.numbers]
    exact = [column for column in likely if column.name.lower() in ("question", *pair)]
    for column in (exact or likely)[:1]:
        if len(column.values) == 1 and not column.many and column.seen > 1:
            draft.taken.add(column.name)
            draft.same = next(iter(column.values))
        else:
            draft.take("question", column, "its name says so")


def _guess_label(draft: Draft) -> None:
    few = [column for column in draft.free() if _may_be_label(draft, column)]
    units = headings.GROUP | headings.SITE
    # A claim's status is a label though a claim is a group, and a description of damage is none.
    ends = [c for c in few if {*map(folded, name_words(c.name)[-1:])} & headings.LABEL]
    named = [c for c in few if headings.has(c.name, headings.LABEL) and not headings.has(c.name, units)
             and (c in ends or not headings.has(c.name, headings.TEXT))] or ends  # fmt: skip
    exact = [c for c in named if c.name.lower() in ("label", "labels", "class", "target")]
    if len(exact) == 1 or len(named) == 1:
        column = (exact or named)[0]
        return draft.take("label", column, f"its name says so; its values are {listed(column.values)}")
    others = [c for c in few if not headings.has(c.name, units | headings.SPLIT)]
    if not named and len(others) == 1:
        column = others[0]
        return draft.take("label", column, f"no other column has a few values each in many rows: "
                          f"{listed(column.values)}")  # fmt: skip
    like = [c for c in others if headings.has(c.name, headings.LIKE_LABEL)]
    if not named and len(like) == 1:
        return draft.take("label", like[0], f"its name says so; its values are {listed(like[0].values)}")
    short = [c for c in others if not c.mostly(c.phrases)]
    if not named and len(short) == 1:
        return draft.take("label", short[0], f"no other column has a few short values each in many rows: "
                          f"{listed(short[0].values)}")  # fmt: skip
    answers = [c for c in draft.named(headings.ANSWER) if c.seen]
    if not named and not others and answers:
        return
    if named or others:
        _say_spread(draft, named or others)
        draft.doubt("label", "Which column holds the label?", [column.name for column in named or others])


def _say_spread(draft: Draft, columns: Sequence[Column]) -> None:
    """Say it where columns of 0 and 1 look like one label that is spread over them (one-hot)."""
    marks = [c for c in columns if c.seen == draft.found.total and {*c.values} <= {"0", "1", "0.0", "1.0"}]
    if len(marks) < 2:
        return
    shown = ", ".join(shown_name(column.name) for column in marks)
    ones = sum(column.values["1"] + column.values["1.0"] for column in marks)
    if ones == draft.found.total:
        said = "as many of them are 1 as there are rows, so they may be one label: write the name of the one that is 1"
        said += " into a column of its own, or ask about one of them"
    else:
        said = "several of them may be 1 in a row, and a choice has one answer: ask about one of them"
    draft.made.warnings.append(f"{shown} hold 0 and 1; {said}.")


def _may_be_label(draft: Draft, column: Column) -> bool:
    return (
        not column.many
        and 2 <= len(column.values) <= len(LETTERS)
        and column.repeats
        and column.longest <= 80
        and not column.pictures
        and not column.measured
        and not (column.prose and column.mostly(column.prose))
        and column.kinds <= {"str", "int", "float", "bool"}
        and 2 * column.seen >= draft.found.total
        and (column.kinds <= {"str", "bool"} or column.numbers)
        and not all(map(_DATE.match, column.values))
    )


def _answer(draft: Draft) -> None:
    made, told = draft.made, draft.told
    if not draft.said("answer"):
        named = draft.named(headings.ANSWER) or draft.named(headings.LIKE_ANSWER)
        named = [c for c in named if c.name.lower() in ("answer", "output")] or named
        if len(named) == 1:
            draft.take("answer", named[0], "its name says so")
        else:
            draft.doubt("answer", "Which column holds the answer?", [c.name for c in named or draft.free()])
    answer = draft.found.columns.get(made.columns.get("answer", ""))
    if answer is not None:
        say_lacking(draft, answer, "answer")
    made.ask = told.ask or draft.same
    if made.ask:
        made.say("question", made.ask, "you said so (--ask)" if told.ask else "every row brings the same")
    elif "question" not in made.columns:
        made.ask = text_question_of(answer.name) if answer is not None else ""
        if made.ask:
            made.say("question", made.ask, "from the column's name; write your own into the template, or --ask")
        else:
            draft.doubt("ask", "What is every row asked?", ())
