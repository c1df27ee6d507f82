"""Your own data: JSON Lines, JSON, Parquet, or a ``datasets`` data set saved to disk. No Python needed.

Columns (others are ignored unless ``groups`` names them):

========== ====================================================================================
id          unique within the split; the row number where there is none
image       path of the image, relative to the data root (or ``image_root``); null for no image
text        the text modality; null for no text
question    the row's question; needed if the template's task is ``vqa``
label       ``choice``: index of the option, or its name
answer      ``vqa``: the answer as text; ``choice``: may stand in for label
kind        ``vqa``: ``open`` or ``closed``; where there is none, yes and no are closed
split       ``train``, ``val`` or ``test``, in a file that holds all three
========== ====================================================================================

The options, metric and prompts are stated in a template (see ``data_templates/``).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from fs_fedmllm.data.files import Row, fingerprint, text_of, unique
from fs_fedmllm.data.findings import Findings, RowError, convert
from fs_fedmllm.data.images import ImageFolder
from fs_fedmllm.data.own_files import Source, find_sources, read_source, write_image
from fs_fedmllm.data.sample import Dataset, Sample
from fs_fedmllm.data.template import LETTERS, Template, load_template
from fs_fedmllm.errors import ConfigError

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
    parts: dict[str, list[Sample]] = {"train": [], "val": [], "test": []}
    once = {split: unique() for split in parts}
    sources = find_sources(root, file, {"train": train, "val": val, "test": test})

    def make(source: Source, row: Row, where: str) -> None:
        split = source.split or _split(row, split_column, where)
        value = row.get("image")
        data = value.get("bytes") if isinstance(value, dict) else None
        name = value.get("path") if isinstance(value, dict) else value
        image: str | None = None
        if data:
            image = write_image(data, store, where)
        elif not _missing(name):
            image = images.resolve(name, where)
        parts[split].append(once[split](_sample(row, where, image, asked, groups)))

    for source in sources:
        convert(read_source(source, found), partial(make, source), found)
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
    return store


def _missing(value: Any) -> bool:
    """Null, NaN (as pandas writes missing text) and blanks are all: not there."""
    return value is None or value != value or (isinstance(value, str) and not value.strip())


def _optional(row: Row, key: str, where: str) -> str | None:
    return None if _missing(row.get(key)) else text_of(row, key, where)


def _split(row: Row, column: str, where: str) -> str:
    value = str(row.get(column, "")).strip().lower()
    if value not in SPLITS:
        remedy = f"Give one of {', '.join(SPLITS)}, or name one file a split with the options train, val and test."
        raise RowError(where, f"the column {column!r} says {row.get(column)!r}, which is no split.", remedy)
    return SPLITS[value]


def _sample(row: Row, where: str, image: str | None, asked: Asked, groups: Sequence[str]) -> Sample:
    template = asked.template
    text, question = _optional(row, "text", where), _optional(row, "question", where)
    if image is None and text is None and question is None:
        raise RowError(where, "the row has no image, no text and no question.", "Fill in one, or remove the row.")
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
        if _missing(row.get(group)):
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
    """Every way to write a label: index, index as text, completion, and, before all others, the option's name."""
    labels: dict[object, int] = {}
    for i in range(len(template.options)):
        labels |= {i: i, str(i): i, template.answer(i): i}
    return labels | {name: i for i, name in enumerate(template.options)}


def _label(row: Row, labels: Mapping[object, int], template: Template, where: str) -> int:
    key = "answer" if _missing(row.get("label")) else "label"
    value = row.get(key)
    if isinstance(value, str):
        index = labels.get(value.strip())
    else:  # pandas writes whole numbers as floats beside nulls; True is no 1
        index = labels.get(value) if type(value) in (int, float) else None
    if index is None:
        known = ", ".join(f"{i} = {LETTERS[i]} = {name}" for i, name in enumerate(template.options))
        raise RowError(where, f"{key} {value!r} is none of the options.", f"Give one of {known}.")
    return index
