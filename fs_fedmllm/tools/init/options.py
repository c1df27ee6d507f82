"""The options of a choice, from the values of its labels, and what is doubtful about them."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from fs_fedmllm.data.alike_labels import alike_sentences
from fs_fedmllm.data.client_names import shown_name
from fs_fedmllm.data.template import LETTERS
from fs_fedmllm.errors import ConfigError
from fs_fedmllm.quoting import shell_option
from fs_fedmllm.tools.init.asking import is_property, question_of
from fs_fedmllm.tools.init.looking import Column
from fs_fedmllm.tools.init.proposal import Draft, listed, natural

_LETTER = re.compile(r"[^\W\d_]")


def choose_options(draft: Draft) -> None:
    """Take the options, and what every row is asked.

    Raises:
        ConfigError: the labels are too many, or numbers that are no indices.
    """
    made, told = draft.made, draft.told
    column = draft.found.columns[made.columns["label"]]
    _take_options(draft, column)
    if column.padded:
        rows = "1 row" if column.padded == 1 else f"{column.padded:,} rows"
        made.warnings.append(
            f"In {rows} {shown_name(column.name)} has blanks before or after its value; they do not count."
        )
    say_lacking(draft, column, "label")
    if not told.ask and draft.same:
        made.ask = draft.same
        made.say("question", made.ask, "every row brings the same")
    elif not told.ask:
        made.ask = question_of(column.name, made.options)
        made.say("question", made.ask, "from the column's name; write your own into the template, or --ask")
    else:
        made.ask = told.ask
        made.say("question", made.ask, "you said so (--ask)")


def _take_options(draft: Draft, column: Column) -> None:
    made, told = draft.made, draft.told
    if "list" in column.kinds:
        raise ConfigError(
            f"The label {shown_name(column.name)!r} holds lists, and a choice has one answer a row. Write one label "
            f"into a column of its own, or have answers in words (--task vqa), with the labels as one text."
        )
    declared = draft.found.class_labels.get(column.name)
    if told.options:
        made.options = told.options
        made.say("options", ", ".join(map(shown_name, told.options)), "you said so (--options)")
    elif declared:
        made.options = tuple(declared)
        made.say("options", ", ".join(map(shown_name, declared)), "the file declares these names")
    elif not 2 <= len(column.values) <= len(LETTERS) or column.many:
        count = "more than 2,000" if column.many else f"{len(column.values):,}"
        raise ConfigError(
            f"The label {column.name!r} has {count} different values, and a choice has 2 to {len(LETTERS)} "
            "options. Name another column (--label), or have answers in words (--task vqa "
            f"{shell_option('answer', column.name)})."
        )
    elif set(column.values) <= {"0", "1", "0.0", "1.0"} and is_property(column.name):
        made.options = ("no", "yes")
        made.say(
            "options", "no, yes", f"0 and 1 of what is called {shown_name(column.name)}; --options says otherwise"
        )
    elif column.numbers and column.kinds != {"str"}:
        values = sorted({int(float(value)) for value in column.values})
        if values[-1] >= len(LETTERS):
            raise ConfigError(
                f"The labels {listed(column.values)} are numbers, which count the options from 0, and a choice "
                f"has at most {len(LETTERS)}: write what they mean in the rows, as texts, or put them in quotes."
            )
        made.options = tuple(str(i) for i in range(values[-1] + 1))
        made.warnings.append(
            "The options have numbers for names, which tells a model nothing: say what they mean with --options, "
            f"in the order of the numbers from 0 ({_named_numbers(range(values[-1] + 1))})."
        )
        if unused := sorted(set(range(values[-1] + 1)) - set(values)):
            made.warnings.append(
                f"No row has the label {listed([str(i) for i in unused])}, which is an option, since numbers count "
                "them from 0. If yours do not count, write them as texts, in quotes."
            )
        made.say("options", ", ".join(made.options), "labels are numbers, which count the options from 0")
    else:
        made.options = tuple(sorted(column.values, key=natural))
        made.say("options", ", ".join(map(shown_name, made.options)), f"the values of {shown_name(column.name)}")
        _say_doubtful(draft, column)


def _say_doubtful(draft: Draft, column: Column) -> None:
    """Say it where values that become options are numbers, texts, or the same thing twice."""
    warnings, values = draft.made.warnings, column.values
    if alike := alike_sentences(values):
        warnings += [*alike, "When the file is corrected, run init again: the options are the labels that it holds."]
    if joint := _joint(values):
        warnings.append(
            f"{listed(joint)} {'is' if len(joint) == 1 else 'are'} several labels in one, and an option apart from "
            "each of them: a choice has one answer a row. Ask about one of them (a column with yes and no), or keep "
            "them if each combination is a class of its own."
        )
    single = sum(count == 1 for count in values.values())
    if 2 * single > len(values):
        warnings.append(
            f"{single:,} of {len(values):,} options stand in one row each. If they are texts, have answers in "
            f"words (--task vqa {shell_option('answer', column.name)} --ask '...'), or name another column "
            "(--label)."
        )
    if column.numbers:
        numbers = sorted({int(float(value)) for value in values})
        counts = len(numbers) == len(values) and numbers == list(range(len(values)))
        warnings.append(
            "The options have numbers for names, which tells a model nothing: "
            + (
                f"say what they mean with --options, in the order of the numbers from 0 ({_named_numbers(numbers)})."
                if counts
                else "write what they mean in the rows, in place of the numbers. (Options count from 0, so names "
                "for these would be given to the wrong rows.)"
            )
        )


def _joint(values: Collection[str]) -> list[str]:
    """Values that name several of the others: ``Effusion|Mass`` beside ``Mass``."""
    there = {value.casefold() for value in values}
    found = []
    for value in filter(_LETTER.search, values):
        for mark in "|;,/+&":
            parts = [part.strip().casefold() for part in value.split(mark)]
            if len(parts) > 1 and all(parts) and not there.isdisjoint(parts):
                found.append(value)
                break
    return found


def say_lacking(draft: Draft, column: Column, role: str) -> None:
    """Say how many rows lack a label or an answer."""
    lacking = draft.found.total - column.seen
    if lacking:
        rows = "1 row has" if lacking == 1 else f"{lacking:,} rows have"
        draft.made.warnings.append(f"{rows} no {role}, and will be refused: fill them in, or take them out.")


def _named_numbers(values: Sequence[int]) -> str:
    return f"--options 'what {values[0]} means,what {values[-1]} means'" if len(values) == 2 else "a name each"
