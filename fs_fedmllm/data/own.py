"""Your own data: CSV, TSV, JSON Lines, JSON, Parquet, a ``datasets`` data set saved to disk, or folders of images.

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

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from fs_fedmllm.data.columns import UnreadColumns, check_mapping, no_column
from fs_fedmllm.data.dividing import Division, check_division
from fs_fedmllm.data.embedded import cached_images
from fs_fedmllm.data.files import fingerprint, place_in
from fs_fedmllm.data.findings import Findings, RowError, TooManyErrorsError, convert
from fs_fedmllm.data.image_folders import classes_sha256
from fs_fedmllm.data.image_paths import ImageFolder
from fs_fedmllm.data.labels import Options
from fs_fedmllm.data.own_files import Source, find_sources, is_table, read_source
from fs_fedmllm.data.own_rows import RowReader
from fs_fedmllm.data.sample import Dataset
from fs_fedmllm.data.table_form import table_form
from fs_fedmllm.data.template_file import load_template
from fs_fedmllm.errors import ConfigError
from fs_fedmllm.files.atomic import remove_abandoned

#: What every row of a task needs, beside a modality.
WANTED = {"choice": ("label",), "vqa": ("question", "answer")}


def load(
    root: Path,
    *,
    template: str,
    file: str = "",
    train: str = "",
    val: str = "",
    test: str = "",
    split: Mapping[str, Any] = MappingProxyType({}),
    split_column: str = "split",
    image_root: str = "",
    follow_links: bool = False,
    groups: Sequence[str] = (),
    columns: Mapping[str, str] = MappingProxyType({}),
    absent: Sequence[str] = (),
    delimiter: str = "",
    encoding: str = "",
    extract_images: str = "",
    require_images: bool = True,
    title: str = "",
    by_client: str = "",
    findings: Findings | None = None,
) -> Dataset:
    """Read your own data.

    Args:
        root: the folder of the files, or a ``datasets`` data set saved to disk.
        template: name of a template, or the path of your own .yaml (from here, or from ``root``).
        file: one file with all splits; without it and the next three, ``train``, ``val``, ``test`` and ``data``
            with an ending that is read are looked for.
        train: the file of the training rows.
        val: the file of the validation rows.
        test: the file of the test rows.
        split: shares of the training rows that are for validation and test, as in
            :class:`fs_fedmllm.data.dividing.Division`.
        split_column: the column that says which split a row is in.
        image_root: the folder that the images must lie in, relative to ``root``; empty for ``root``.
        follow_links: whether symbolic links below ``image_root`` may lead out of it.
        groups: columns that rows can be grouped by, such as a patient or a site.
        columns: what the columns are called here, such as ``{image: image_path, text: note}``; ``''`` says that there
            is no such column, whatever another looks like.
        absent: texts that say that a value is not there, such as ``NA``.
        delimiter: what is between two cells of a table; empty to look for it.
        encoding: of tables; empty for UTF-8.
        extract_images: folder, relative to ``root``, to keep images in that are embedded in the file; empty for
            ``images`` in the cache.
        require_images: whether a missing image file is an error.
        title: what results, plots and the model card call the data set.
        by_client: the column whose every value is a client (``data.splitter: fedmllm_given``); training rows must
            have it.
        findings: where to put what is wrong; without it the first error is raised.
    """
    found, root = findings or Findings(), root.absolute()
    if isinstance(groups, str) or not all(isinstance(name, str) for name in groups):
        raise ConfigError(f"own: groups must be a list of column names, not {groups!r}.")
    if isinstance(absent, str) or not all(isinstance(text, str) for text in absent):
        raise ConfigError(f"own: absent must be a list of texts, in quotes, such as ['NA'], not {absent!r}.")
    path = str(root / template) if (root / template).is_file() else template
    division = check_division(split)
    sources = find_sources(root, file, {"train": train, "val": val, "test": test})
    if (delimiter or encoding) and not any(is_table(source.path) for source in sources):
        named = ", ".join(source.path.name for source in sources)
        raise ConfigError(
            f"own: delimiter and encoding are for CSV and TSV files, and {named} is none. Take them out."
        )
    mapping = check_mapping(columns)
    asked = load_template(path)
    reader = RowReader(
        found,
        Options.of(asked),
        ImageFolder(place_in(root, "own", "image_root", image_root), required=require_images, follow=follow_links),
        _store(root, extract_images),
        tuple(dict.fromkeys([*groups, *division.together])),
        division,
        split_column,
        frozenset(absent),
        by_client,
    )
    form = table_form(delimiter, encoding)
    read: dict[str, None] = {}
    if any(source.layout for source in sources):
        found.note(str(root), f"Read as image folders: {', '.join(source.layout for source in sources)}.")
    for source in sources:
        columns = {**source.columns, **mapping}
        reader.begin(source, columns)
        # A question that the template has is nobody's to bring.
        wanted = [name for name in WANTED[asked.task] if name != "question" or not asked.question]
        used = [name for name in (*reader.groups, split_column, by_client) if name]
        unread = UnreadColumns(used, columns, wanted)
        try:
            convert(read_source(source, found, form), partial(reader.make, source, unread), found)
        except TooManyErrorsError:
            reader.say_unread(source, unread)
            raise
        reader.say_unread(source, unread)
        read |= unread.names
    if not read and not any(item.severity == "error" for item in found.items):
        named = ", ".join(source.path.name for source in sources)
        found.error(RowError(str(root), f"there is no row in {named}.", "Fill the file in, or name another one."))
    if (fault := no_column(mapping, read)) is not None:
        raise fault
    reader.say(str(root))
    parts = reader.divided(str(root))
    for part in ("train", "test"):
        if not parts[part]:
            found.warn(str(root), f"There are no {part} rows.")
    return Dataset(
        name="own",
        template=path,
        **parts,
        warnings=found.warnings,
        fingerprint=_fingerprint(sources, division),
        title=title.strip(),
    )


def _fingerprint(sources: Sequence[Source], division: Division) -> str:
    """Of the files, and of how their rows are divided where that is not written in them."""
    files = fingerprint(_hashed(sources))
    beside = [classes_sha256(source.path) for source in sources if source.layout == "classes"]
    beside += [json.dumps(dataclasses.asdict(division))] if division else []
    return hashlib.sha256(" ".join([files, *beside]).encode()).hexdigest() if beside else files


def _hashed(sources: Sequence[Source]) -> Iterator[Path]:
    for source in sources:
        yield from sorted(source.path.glob("*.arrow")) if source.path.is_dir() else [source.path]


def _store(root: Path, extract_images: str) -> str:
    store = os.path.abspath(root / extract_images) if extract_images else cached_images()
    if extract_images and not os.path.realpath(store).startswith(os.path.realpath(root) + os.sep):
        raise ConfigError(f"own: extract_images {extract_images!r} must be a folder inside {root}.")
    remove_abandoned(Path(store))
    return store
