"""Your own data: JSON Lines, JSON, Parquet, or a ``datasets`` data set saved to disk. No Python needed.

Columns (others are ignored unless ``groups`` names them; the option ``columns`` maps these to columns of other names,
and a column that is not read although it looks like one of them is an error):

========== ====================================================================================
id          unique within the split; the row number where there is none
image       path of the image, relative to the data root (or ``image_root``); null for no image.
            ``images``, a list of one, is the same
text        the text modality; null for no text
question    the row's question; needed if the template's task is ``vqa``
label       ``choice``: index or letter of the option, or its name
answer      ``vqa``: the answer as text; ``choice``: may stand in for label
kind        ``vqa``: ``open`` or ``closed``; where there is none, yes and no are closed
split       ``train``, ``val`` or ``test``, in a file that holds all three
messages    one user's turn and one answer, in TRL's form; ``prompt`` and ``completion`` are the same
            (:mod:`fs_fedmllm.data.conversations`)
========== ====================================================================================

The options, metric and prompts are stated in a template (see ``data_templates/``).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from fs_fedmllm.data.columns import UnreadColumns, check_mapping, missing, one_image, renamed
from fs_fedmllm.data.conversations import conversation_columns, told
from fs_fedmllm.data.files import Row, fingerprint, shown, text_of, unique
from fs_fedmllm.data.findings import Findings, RowError, TooManyErrorsError, as_finding, convert
from fs_fedmllm.data.images import ImageFolder
from fs_fedmllm.data.own_files import Source, find_sources, read_source, write_image
from fs_fedmllm.data.sample import Dataset, Sample
from fs_fedmllm.data.template import LETTERS, Template, load_template
from fs_fedmllm.errors import ConfigError, DataError
from fs_fedmllm.files.atomic import remove_abandoned

#: What every row of a task needs, beside a modality.
WANTED = {"choice": ("label",), "vqa": ("question", "answer")}
SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val", "test": "test"}


def load(
    root: Path,
    *,
    template: str,
    file: str = "",
    train: str = "",
    val: str = "",
    test: str = "",
    split_column: str = "split",
    image_root: str = "",
    groups: Sequence[str] = (),
    columns: Mapping[str, str] = MappingProxyType({}),
    extract_images: str = "",
    require_images: bool = True,
    title: str = "",
    findings: Findings | None = None,
) -> Dataset:
    """Read your own data.

    Args:
        root: the folder of the files, or a ``datasets`` data set saved to disk.
        template: name of a template, or the path of your own .yaml (from here, or from ``root``).
        file: one file with all splits; without it and the next three, ``train``, ``val``, ``test`` and ``data``
            with the endings .jsonl, .json and .parquet are looked for.
        train: the file of the training rows.
        val: the file of the validation rows.
        test: the file of the test rows.
        split_column: the column that says which split a row is in.
        image_root: the folder that the images must lie in, relative to ``root``; empty for ``root``.
        groups: columns that rows can be grouped by, such as a patient or a site.
        columns: what the columns are called here, such as ``{image: image_path, text: note}``; ``''`` says that there
            is no such column, whatever another looks like.
        extract_images: folder, relative to ``root``, to write images to that are embedded in the file.
        require_images: whether a missing image file is an error.
        title: what results, plots and the model card call the data set.
        findings: where to put what is wrong; without it the first error is raised.
    """
    found = findings or Findings()
    if isinstance(groups, str) or not all(isinstance(name, str) for name in groups):
        raise ConfigError(f"own: groups must be a list of column names, not {groups!r}.")
    path = str(root / template) if (root / template).is_file() else template
    asked = _asked(load_template(path))
    store = _store(root, extract_images)
    images = ImageFolder(root / image_root, required=require_images)
    mapping = check_mapping(columns)
    parts: dict[str, list[Sample]] = {"train": [], "val": [], "test": []}
    once = {split: unique() for split in parts}
    sources = find_sources(root, file, {"train": train, "val": val, "test": test})
    read: dict[str, None] = {}

    def make(source: Source, unread: UnreadColumns, original: Row, where: str) -> None:
        try:
            row = told(original, where, asked.template)
        except DataError:
            unread.note(original, original)
            raise
        row = renamed(row, mapping, where)
        unread.note(original, row, conversation_columns(original))
        try:
            split = _split(row, split_column, source.split, where)
            image = _image(row.get("image"), images, store, where)
            parts[split].append(once[split](_sample(row, where, image, asked, groups)))
        except DataError:
            # A row is often empty because its columns have other names, and that is the better thing to say.
            fault = unread.fault(str(source.path), _remedy) if found.strict else None
            if fault is not None:
                raise fault from None
            raise

    for source in sources:
        unread = UnreadColumns([*groups, split_column], mapping, WANTED[asked.template.task])
        try:
            convert(read_source(source, found), partial(make, source, unread), found)
        except TooManyErrorsError:
            _say_unread(source, unread, asked, found)
            raise
        _say_unread(source, unread, asked, found)
        read |= unread.names
    if not read and not any(item.severity == "error" for item in found.items):
        named = ", ".join(source.path.name for source in sources)
        found.error(RowError(str(root), f"there is no row in {named}.", "Fill the file in, or name another one."))
    for name, column in mapping.items():
        if column and column not in read:
            here = ", ".join(read) or "none"
            raise ConfigError(
                f"own: columns.{name} is {column!r}, and there is no such column (columns here: {here})."
            )
    for split in ("train", "test"):
        if not parts[split]:
            found.warn(str(root), f"There are no {split} rows.")
    return Dataset(
        name="own",
        template=path,
        **parts,
        warnings=found.warnings,
        fingerprint=fingerprint(_hashed(sources)),
        title=title.strip(),
    )


@dataclass(frozen=True)
class Asked:
    """The template, with what is the same for every row."""

    template: Template
    labels: Mapping[object, int]
    answers: tuple[str, ...]


def _asked(template: Template) -> Asked:
    return Asked(template, _labels(template), tuple(template.answer(i) for i in range(len(template.options))))


def _hashed(sources: Sequence[Source]) -> Iterator[Path]:
    for source in sources:
        yield from sorted(source.path.glob("*.arrow")) if source.path.is_dir() else [source.path]


def _store(root: Path, extract_images: str) -> str:
    if not extract_images:
        return ""
    store = os.path.abspath(root / extract_images)
    if not os.path.realpath(store).startswith(os.path.realpath(root) + os.sep):
        raise ConfigError(f"own: extract_images {extract_images!r} must be a folder inside {root}.")
    remove_abandoned(Path(store))
    return store


def _optional(row: Row, key: str, where: str) -> str | None:
    return None if missing(row.get(key)) else text_of(row, key, where)


def _split(row: Row, column: str, of_file: str, where: str) -> str:
    value = row.get(column)
    said = SPLITS.get(str(value).strip().lower())
    if of_file:
        if said not in (None, of_file):
            remedy = "Correct the row, or name the file with the option file, so that the column decides."
            raise RowError(
                where, f"the column {column!r} says {shown(value)} in the file of the {of_file} rows.", remedy
            )
        return of_file
    if said is None:
        remedy = f"Give one of {', '.join(SPLITS)}, or name one file a split with the options train, val and test."
        raise RowError(where, f"the column {column!r} says {shown(value)}, which is no split.", remedy)
    return said


def _image(value: Any, images: ImageFolder, store: str, where: str) -> str | None:
    """The path of a row's image: named, or embedded as bytes, alone or in a mapping (Hugging Face)."""
    value = one_image(value, where)
    if isinstance(value, dict):
        if not {"bytes", "path"} & value.keys():
            held = ", ".join(map(str, value)) or "nothing"
            raise RowError(where, f"the image is a mapping of {held}.", "Give a path, or a mapping of bytes and path.")
        data, value = value.get("bytes"), value.get("path")
        if data and not isinstance(data, bytes):
            remedy = "Write the images as files, and give their paths."
            raise RowError(where, f"the image's bytes are {type(data).__name__}, not bytes.", remedy)
        value = data or value
    if isinstance(value, bytes):
        return write_image(value, store, where)
    return None if missing(value) else images.resolve(value, where)


def _remedy(mapping: Mapping[str, str]) -> str:
    written = ", ".join(f"{name}: {column}" for name, column in mapping.items())
    first = next((name for name, column in mapping.items() if column), None)
    if first is None:
        return "The column has no name; give it one, as the page on own data has them."
    return (
        f"Write fedmllm.data: {{columns: {{{written}}}}} (data check: columns '{{{written}}}'), or rename the columns."
        f" If it is no {first}, {{columns: {{{first}: ''}}}} says that there is none."
    )


def _say_unread(source: Source, unread: UnreadColumns, asked: Asked, found: Findings) -> None:
    """Name the columns of a file that nobody reads: an error if they look like a field, else a note."""
    fault = unread.fault(str(source.path), _remedy)
    if fault is not None and found.strict:
        raise fault
    if fault is not None:
        found.items.append(as_finding(fault))
    if asked.template.task == "choice" and "question" in unread.fields and not unread.reads("question"):
        found.warn(str(source.path), "The column question is not shown: the template asks its own of every row.")
    if unread.unread:
        found.note(str(source.path), f"Columns that are not read: {', '.join(unread.unread)}.")


def _sample(row: Row, where: str, image: str | None, asked: Asked, groups: Sequence[str]) -> Sample:
    template = asked.template
    text, question = _optional(row, "text", where), _optional(row, "question", where)
    if image is None and text is None and (question is None or template.task == "choice"):
        shown = "no image and no text" if template.task == "choice" else "no image, no text and no question"
        raise RowError(where, f"the row has {shown}.", "Fill in one, or remove the row.")
    label, kind = None, _optional(row, "kind", where) or ""
    if template.task == "choice":
        label = _label(row, asked.labels, template, where)
        answer = asked.answers[label]
    else:
        answer = (_optional(row, "answer", where) or "").strip()
        if not answer or question is None:
            key = "question" if answer else "answer"
            raise RowError(where, f"{key} is empty.", "The template's task is vqa: fill it in, or remove the row.")
        kind = kind or ("closed" if answer.lower() in ("yes", "no") else "open")
    for group in groups:
        if missing(row.get(group)):
            raise RowError(where, f"the group column {group!r} is empty.", "Fill it in, or take it out of groups.")
    return Sample(
        id=_optional(row, "id", where) or where.rpartition(":")[2],
        image=image,
        text=text,
        answer=answer,
        question=question if template.task == "vqa" else None,
        label=label,
        kind=kind,
        keys={group: str(row[group]) for group in groups},
        source=where,
    )


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
    if all(letters.get(name.strip(), i) == i for i, name in enumerate(template.options)):
        labels |= letters
    return labels | names


def _clashing(template: Template) -> list[str]:
    """Options that are called by the index of another one."""
    indices = {str(i): i for i in range(len(template.options))}
    return [name for i, name in enumerate(template.options) if indices.get(name.strip(), i) != i]


def _label(row: Row, labels: Mapping[object, int], template: Template, where: str) -> int:
    key = "answer" if missing(row.get("label")) else "label"
    value = row.get(key)
    if isinstance(value, str):
        index = labels.get(value.strip())
    else:  # pandas writes whole numbers as floats beside nulls; True is no 1
        index = labels.get(value) if type(value) in (int, float) else None
    if missing(value):
        raise RowError(where, "label is empty.", f"Give the name of an option, one of {', '.join(template.options)}.")
    if index is None:
        known = ", ".join(f"{i} = {LETTERS[i]} = {name}" for i, name in enumerate(template.options))
        clash = _clashing(template)
        if clash and type(value) in (int, float):
            problem = f"{key} {value!r} could be an index or an option's name, for an option is called {clash[0]!r}."
            raise RowError(where, problem, f"Give the name as text, in quotes, one of {', '.join(template.options)}.")
        raise RowError(where, f"{key} {shown(value)} is none of the options.", f"Give one of {known}.")
    return index
