"""From what a row says is its label to the option of the template."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fs_fedmllm.data.columns import missing
from fs_fedmllm.data.findings import RowError
from fs_fedmllm.data.row_values import Row, shown
from fs_fedmllm.data.template import LETTERS, Template

#: A whole number as pandas writes it beside empty cells.
_WHOLE = re.compile(r"(\d{1,9})\.0+")


@dataclass(frozen=True)
class Options:
    """The template, with what is the same for every row.

    Attributes:
        template: the run's.
        labels: every way to write a label, and the option's index.
        answers: the completion of each option.
    """

    template: Template
    labels: Mapping[object, int] = field(repr=False)
    answers: tuple[str, ...]

    @classmethod
    def of(cls, template: Template) -> Options:
        """Those of a template."""
        return cls(template, _labels(template), tuple(template.answer(i) for i in range(len(template.options))))

    def label(self, row: Row, where: str, names: Sequence[str] = ()) -> int:
        """The index of a row's option.

        Args:
            row: with our names.
            where: ``file:row``.
            names: those that the file itself declares for its labels.

        Raises:
            DataError: it names none.
        """
        template = self.template
        key = "answer" if missing(row.get("label")) else "label"
        value = row.get(key)
        if isinstance(value, str):
            index = self.labels.get(value.strip())
            if index is None and (whole := _WHOLE.fullmatch(value.strip())):
                index = self.labels.get(int(whole[1]))
        elif isinstance(value, bool):  # True is no 1, but may be an option's name
            ways = (self.labels.get(name) for name in (str(value), str(value).lower()))
            index = next((way for way in ways if way is not None), None)
        else:  # pandas writes whole numbers as floats beside nulls
            index = self.labels.get(value) if type(value) in (int, float) else None
        if missing(value):
            remedy = f"Give the name of an option, one of {', '.join(template.options)}."
            raise RowError(where, "label is empty.", remedy)
        if index is not None:
            return index
        clash = _clashing(template)
        if clash and type(value) in (int, float):
            problem = f"{key} {value!r} could be an index or an option's name, for an option is called {clash[0]!r}."
            raise RowError(where, problem, f"Give the name as text, in quotes, one of {', '.join(template.options)}.")
        letters = [f"{letter} = " if template.lettered else "" for letter in LETTERS]
        known = ", ".join(f"{i} = {letters[i]}{name}" for i, name in enumerate(template.options))
        remedy = f"Give one of {known}."
        if str(value).strip() == str(len(template.options)):
            remedy += (
                " Numbers count the options from 0; where yours begin with 1, write the names, or all are one off."
            )
        if key == "label" and names and not set(names) <= set(template.options):
            remedy += (
                f" The file's own names of its labels are {', '.join(names)}: write them as the template's options."
            )
        raise RowError(where, f"{key} {shown(value)} is none of the options.", remedy)


def _labels(template: Template) -> dict[object, int]:
    """Every way to write a label: index, index as text, letter, completion, and, before all others, the option's name.

    Where an option is called by the index of another ("1" of the options "1", "2", "3"), indices mean nothing: a text
    is then a name, and a number is refused. So it is with letters.
    """
    names = {name: i for i, name in enumerate(template.options)}
    labels: dict[object, int] = {template.answer(i): i for i in range(len(template.options))}
    if not _clashing(template):
        labels |= {way: i for i in range(len(template.options)) for way in (i, str(i))}
    letters: dict[object, int] = {LETTERS[i]: i for i in range(len(template.options))}
    if template.lettered and all(letters.get(name.strip(), i) == i for i, name in enumerate(template.options)):
        labels |= letters
    return labels | names


def _clashing(template: Template) -> list[str]:
    """Options that are called by the index of another one."""
    indices = {str(i): i for i in range(len(template.options))}
    return [name for i, name in enumerate(template.options) if indices.get(name.strip(), i) != i]
