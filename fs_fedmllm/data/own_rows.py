"""One row of your own data, as its file has it, to a sample; and what is to be said of them all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fs_fedmllm.data.columns import (
    NOTHING,
    UnreadColumns,
    missing,
    no_column,
    no_such,
    optional,
    overshadowed,
    renamed,
    without,
)
from fs_fedmllm.data.conversations import conversation_columns, told
from fs_fedmllm.data.dividing import PARTS, Division, divide, division_sentences
from fs_fedmllm.data.embedded import image_path
from fs_fedmllm.data.findings import Findings, RowError, as_finding
from fs_fedmllm.data.image_paths import ImageFolder
from fs_fedmllm.data.labels import Options
from fs_fedmllm.data.own_files import Source
from fs_fedmllm.data.row_values import Row, shown, unique
from fs_fedmllm.data.sample import Sample
from fs_fedmllm.errors import ConfigError, DataError
from fs_fedmllm.quoting import shell_word, yaml_list, yaml_mapping

SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val", "test": "test"}


@dataclass
class RowReader:
    """Rows of all files to samples.

    Attributes:
        found: where what is wrong goes.
        options: the template's.
        images: the folder that images lie in.
        store: where embedded images are kept.
        groups: columns that are kept in each sample's keys.
        division: how training rows are divided.
        split_column: the column that says which split a row is in.
        absent: texts that say that a value is not there.
        by_client: the column whose every value is a client; training rows must have it. Empty where there is none.
    """

    found: Findings
    options: Options
    images: ImageFolder
    store: str
    groups: tuple[str, ...]
    division: Division
    split_column: str
    absent: frozenset[str]
    by_client: str = ""

    def __post_init__(self) -> None:
        self.parts: dict[str, list[Sample]] = {part: [] for part in PARTS}
        self._once = {part: unique() for part in PARTS}
        self._nothing: Counter[tuple[str, str]] = Counter()
        self._padded = 0
        self._kept: set[str] = set()
        self._columns: Mapping[str, str] = {}
        self._names: Sequence[str] = ()
        self._ids = ""

    def begin(self, source: Source, columns: Mapping[str, str]) -> None:
        """The rows that follow are of this source.

        Args:
            source: the file or folder.
            columns: which column each field is read from, where their names differ.
        """
        self._columns, self._ids = columns, source.ids
        self._names = source.class_labels.get(columns.get("label", "label"), ())

    def make(self, source: Source, unread: UnreadColumns, original: Row, where: str) -> None:
        """Take one row as its file has it."""
        original = without(original, self.absent)
        try:
            row = told(original, where, self.options.template)
        except DataError:
            unread.note(original, original)
            raise
        row = renamed(row, self._columns, where)
        unread.note(original, row, conversation_columns(original))
        try:
            part = self._part(row, source.split, where)
            image = self._image(row.get("image"), where)
            self.parts[part].append(self._once[part](self._sample(row, where, image, part)))
        except DataError:
            # A row is often empty because its columns have other names, and that is the better thing to say.
            if self.found.strict:
                if source.fixed and (fault := no_column(self._columns, original)) is not None:
                    raise fault from None
                if (unlike := unread.fault(str(source.path), _remedy)) is not None:
                    raise unlike from None
            raise
        label = row.get("answer" if missing(row.get("label")) else "label")
        self._padded += self.options.template.task == "choice" and isinstance(label, str) and label != label.strip()
        for name in ("text", "question"):
            if isinstance(value := row.get(name), str) and value.strip().lower() in NOTHING:
                self._nothing[name, value.strip()] += 1

    def _part(self, row: Row, of_file: str, where: str) -> str:
        column = self.split_column
        value = row.get(column)
        said = SPLITS.get(str(value).strip().lower())
        if of_file:
            if said not in (None, of_file):
                remedy = "Correct the row, or name the file with the option file, so that the column decides."
                raise RowError(
                    where, f"the column {column!r} says {shown(value)} in the file of the {of_file} rows.", remedy
                )
            return of_file
        if said is not None:
            return said
        if self.division and missing(value):
            return "train"
        named = f"Give one of {', '.join(SPLITS)}, or name one file a split with the options train, val and test."
        if column not in row:
            raise RowError(
                where, f"nothing says which split the row is in: there is no column {column!r}.",
                "Say fedmllm.data: {split: {val: 0.1, test: 0.2}} to have the rows divided, name the column with "
                "split_column, or give one file a split (train, val, test).",
            )  # fmt: skip
        raise RowError(where, f"the column {column!r} says {shown(value)}, which is not a split.", named)

    def _image(self, value: Any, where: str) -> str | None:
        """The path of a row's image: named, or embedded as bytes, alone or in a mapping (Hugging Face)."""
        path, embedded = image_path(value, where, self.images, self.store)
        if embedded and path is not None:
            self._kept.add(path)
        return path

    def _sample(self, row: Row, where: str, image: str | None, part: str) -> Sample:
        template = self.options.template
        text, question = optional(row, "text", where), optional(row, "question", where)
        if image is None and text is None and (question is None or template.task == "choice"):
            empty = "no image and no text" if template.task == "choice" else "no image, no text and no question"
            raise RowError(where, f"the row has {empty}.", "Fill in one, or remove the row.")
        question = question or template.question or None
        label, kind = None, optional(row, "kind", where) or ""
        if template.task == "choice":
            label = self.options.label(row, where, self._names)
            answer = self.options.answers[label]
        else:
            answer = (optional(row, "answer", where) or "").strip()
            if not answer or question is None:
                key = "question" if answer else "answer"
                raise RowError(where, f"{key} is empty.", "The template's task is vqa: fill it in, or remove the row.")
            kind = kind or ("closed" if answer.lower() in ("yes", "no") else "open")
        for group in self.groups:
            if missing(row.get(group)):
                option = "groups" if group not in self.division.together else "split.together"
                if group not in row:
                    raise RowError(where, f"{option} is {group!r}, and {no_such(group, list(row))}", "")
                remedy = f"Fill it in, or take it out of {option}."
                raise RowError(where, f"the group column {group!r} is empty.", remedy)
        keys = {group: str(row[group]) for group in self.groups}
        if self.by_client and not missing(row.get(self.by_client)):
            keys[self.by_client] = str(row[self.by_client])
        elif self.by_client and part == "train":
            there = "is empty" if self.by_client in row else f"is not there (columns here: {', '.join(row)})"
            problem = f"the column {self.by_client!r} {there}, and it says which client the row belongs to."
            remedy = "Fill it in, remove the row, or name another column (data.splitter_args: client)."
            raise RowError(where, problem, remedy)
        return Sample(
            id=optional(row, "id", where) or self._ids + where.rpartition(":")[2],
            image=image,
            text=text,
            answer=answer,
            question=question if template.task == "vqa" else None,
            label=label,
            kind=kind,
            keys=keys,
            source=where,
        )

    def divided(self, where: str) -> dict[str, list[Sample]]:
        """The rows of each split.

        Raises:
            ConfigError: the option ``split`` gives rows to a split that has some, or the rows are too few for it.
        """
        if not self.division:
            return self.parts
        for part in ("val", "test"):
            if part in self.division.shares and self.parts[part]:
                raise ConfigError(
                    f"own: split.{part} takes rows for {part}, and {len(self.parts[part]):,} rows are {part} rows "
                    f"already (such as {self.parts[part][0].source}). Take split.{part} out, or name the one file to "
                    "divide with the option file."
                )
        if not self.parts["train"]:
            return self.parts
        try:
            made = divide(self.parts["train"], self.division)
        except ConfigError as error:
            if self.found.strict:
                raise
            if not any(item.severity == "error" for item in self.found.items):  # else it may be for want of those rows
                self.found.items.append(replace(as_finding(error), file=where))
            return self.parts
        for sentence in division_sentences(made, self.division):
            self.found.warn(where, sentence)
        together = f", {' and '.join(self.division.together)} kept together" if self.division.together else ""
        counts = ", ".join(f"{len(made[part]):,} {part}" for part in self.division.shares)
        self.found.note(where, f"Rows divided by split, seed {self.division.seed}{together}: {counts}.")
        return {part: made[part] or self.parts[part] if part != "train" else made[part] for part in PARTS}

    def say(self, where: str) -> None:
        """Say where embedded images are kept, and name texts that people write where there is nothing."""
        if self._kept:
            self.found.note(where, f"Embedded images, each kept once in {self.store}: {len(self._kept):,}.")
        if self._padded:
            rows = "1 row" if self._padded == 1 else f"{self._padded:,} rows"
            self.found.note(where, f"In {rows} label has blanks before or after its value, which do not count.")
        for (name, value), count in self._nothing.items():
            rows = "1 row" if count == 1 else f"{count:,} rows"
            self.found.warn(
                where,
                f"In {rows} {name} is {value!r}, which is taken as it is written.",
                f"Say fedmllm.data: {{absent: {yaml_list([value])}}} if it means that nothing is there.",
            )

    def say_unread(self, source: Source, unread: UnreadColumns) -> None:
        """Name the columns of a file that nobody reads: an error if they look like a field, else a note."""
        found, file = self.found, str(source.path)
        fault = unread.fault(file, _remedy)
        if fault is not None and found.strict:
            raise fault
        if fault is not None:
            found.items.append(as_finding(fault))
        if self.options.template.task == "choice" and "question" in unread.fields and not unread.reads("question"):
            found.warn(file, "The column question is not shown: the template asks its own of every row.")
        for name, column in overshadowed(self._columns, unread.names).items():
            found.warn(file, f"columns.{name} is {column!r}, so the file's own column {name!r} is not read.")
        if unread.unread:
            found.note(file, f"Columns that are not read: {', '.join(unread.unread)}.")


def _remedy(mapping: Mapping[str, str]) -> str:
    written = yaml_mapping(mapping)
    first = next((name for name, column in mapping.items() if column), None)
    if first is None:
        return "The column has no name; give it one, as the page on own data has them."
    return (
        f"Write fedmllm.data: {{columns: {written}}} (data check: columns {shell_word(written)}), or rename the "
        "columns."
        f" If it is no {first}, {{columns: {{{first}: ''}}}} says that there is none."
    )
