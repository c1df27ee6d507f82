"""The files of your own data: where they are, and their rows in small batches."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from fs_fedmllm.data.arrow_rows import class_labels, disk_rows, parquet_rows
from fs_fedmllm.data.files import place_in
from fs_fedmllm.data.findings import Findings, RowError
from fs_fedmllm.data.image_folders import FILE_NAME, METADATA, class_folders, class_rows, holds_images, named_rows
from fs_fedmllm.data.json_rows import json_rows
from fs_fedmllm.data.packed import GZIP, is_packed, kind_of
from fs_fedmllm.data.row_values import Row
from fs_fedmllm.data.table_form import TABLES, TableForm
from fs_fedmllm.data.tables import table_rows

#: Endings of files that are read, in any case; all but Parquet may be packed with gzip (``.csv.gz``).
ENDINGS = (".jsonl", ".json", ".parquet", *TABLES)
_PACKED = (GZIP, ".zip", ".bz2", ".xz", ".zst", ".tar", ".tgz", ".7z")
#: Folder names of a ``datasets`` data set, by split.
FOLDERS = {"train": ("train",), "val": ("val", "validation", "valid", "dev"), "test": ("test",)}

#: Tables in UTF-8 whose delimiter is looked for.
UTF8 = TableForm()

#: How files of rows are called.
_STEMS = {name for names in FOLDERS.values() for name in names} | {"data"}


@dataclass(frozen=True)
class Source:
    """One file, or one folder.

    Attributes:
        path: of the file, of a ``datasets`` folder, or of class folders.
        split: of its rows; empty if a column says it.
        layout: ``metadata`` (a file that names images of its folder), ``classes`` (class folders), or empty.
        ids: what stands before the numbers of rows that have no id, where one split has several files.
    """

    path: Path
    split: str
    layout: str = ""
    ids: str = ""

    @property
    def columns(self) -> dict[str, str]:
        """Fields that are read from columns of other names where the user does not say otherwise."""
        return {"image": FILE_NAME} if self.layout == METADATA else {}

    @property
    def class_labels(self) -> dict[str, list[str]]:
        """The names of class labels that the source itself declares, by column."""
        declares = not self.layout and (self.path.is_dir() or kind_of(self.path) == ".parquet")
        return class_labels(self.path) if declares else {}

    @property
    def fixed(self) -> bool:
        """Whether every row has all of its columns."""
        return self.path.is_dir() or kind_of(self.path) not in (".jsonl", ".json")


def find_sources(root: Path, file: str, named: Mapping[str, str]) -> list[Source]:
    """The files that the options name; where they name none, those with the usual names.

    Raises:
        DataError: a named file is not there, or there is nothing to read.
        ConfigError: a named file is not in the folder.
    """
    if file or any(named.values()):
        wanted = {"": file, **named}
        return [Source(_existing(root, split, name), split) for split, name in wanted.items() if name]
    if (root / "dataset_dict.json").is_file():
        found = [Source(root / name, split) for split, names in FOLDERS.items() for name in names]
        return [source for source in found if source.path.is_dir()]
    if (root / "dataset_info.json").is_file():
        return [Source(root, "")]
    by_split = [Source(path, split) for split, names in FOLDERS.items() if (path := _first(root, names))]
    if by_split:
        return by_split
    single = _first(root, ("data",))
    if single is not None:
        return [Source(single, "")]
    pictured = _shards(root) or _image_folders(root)
    if not pictured:
        raise RowError(str(root), *_nothing_to_read(root))
    return pictured


#: How the Hub's Parquet files are called: ``data/train-00000-of-00002.parquet``.
_SHARD = re.compile(r"([a-z]+)-(\d{5})-of-(\d{5})(-[0-9a-f]+)?\.parquet", re.IGNORECASE)


def _shards(root: Path) -> list[Source]:
    """The Parquet files of a data set as the Hub has it, beside each other or in the folder ``data``.

    Raises:
        DataError: some of a split's files are not there.
    """
    found = list[Source]()
    for folder in (root, root / "data"):
        paths = sorted(folder.iterdir()) if folder.is_dir() and not found else []
        named = [(said, path) for path in paths if (said := _SHARD.fullmatch(path.name)) and path.is_file()]
        for split, names in FOLDERS.items():
            own = [(said, path) for said, path in named if said[1].lower() in names]
            if not own:
                continue
            if [int(said[2]) for said, _ in own] != list(range(int(own[0][0][3]))):
                problem = f"there are {len(own)} Parquet files of {split} rows, and {own[0][1].name} says "
                problem += f"{int(own[0][0][3])}."
                raise RowError(str(folder), problem, "Put all of them there, or name the one to read with an option.")
            found += [Source(path, split, ids=f"{said[2]}-" if len(own) > 1 else "") for said, path in own]
    return found


def _image_folders(root: Path) -> list[Source]:
    """The sources of an ``imagefolder``: files ``metadata`` or class folders, in folders for the splits or without."""
    folders = {path.name.lower(): path for path in sorted(root.iterdir()) if path.is_dir()}
    places = [(split, folders[name]) for split, names in FOLDERS.items() for name in names if name in folders]
    found, without = list[Source](), list[Path]()
    for split, folder in places or [("", root)]:
        if (named := _first(folder, (METADATA,))) is not None:
            found.append(Source(named, split, METADATA))
        elif len(class_folders(folder)) >= (1 if split else 2) and (split or not _files_of_rows(root)):
            found.append(Source(folder, split, "classes"))
        elif split and holds_images(folder):
            without.append(folder)
    if places and not found and (named := _first(root, (METADATA,))) is not None:
        return [Source(named, "", METADATA)]
    if without:
        problem = "the folder holds images, and neither folders for their labels nor a file metadata that names them."
        raise RowError(str(without[0]), problem, "Put them into a folder for each label, or write metadata.csv "
                       "with the columns file_name and label.")  # fmt: skip
    splits = [source.split for source in found]
    if (twice := next((split for split in splits if splits.count(split) > 1), None)) is not None:
        here = " and ".join(source.path.name for source in found if source.split == twice)
        raise RowError(str(root), f"there are two folders of {twice} rows, {here}.", "Join them, or take one away.")
    return found


def _files_of_rows(root: Path) -> bool:
    """Whether something there is called as files of rows are; a folder of images beside it holds their images."""
    return any(
        is_read(path) or (path.suffix and path.name.partition(".")[0].lower() in _STEMS) for path in root.iterdir()
    )


def is_read(path: Path) -> bool:
    """Whether files of this name are read."""
    return kind_of(path) in ENDINGS and not (is_packed(path) and kind_of(path) == ".parquet")


def is_table(path: Path) -> bool:
    """Whether a file is a CSV or TSV file, by its name."""
    return kind_of(path) in TABLES and not path.is_dir()


def _nothing_to_read(root: Path) -> tuple[str, str]:
    """Problem and remedy where no file has one of the usual names; what comes near is named."""
    problem = f"there is no train, val, test or data with {', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}"
    near = [entry for entry in sorted(root.iterdir()) if entry.name.partition(".")[0].lower() in _STEMS]
    for entry in near:
        if is_read(entry):
            kind = "a folder" if entry.is_dir() else "a link to no file" if entry.is_symlink() else "no regular file"
            return f"{problem}: {entry.name} is {kind}.", "Put the file itself there."
    near = [entry for entry in near if entry.suffix]
    if near:
        remedy = "Unpack it." if near[0].suffix.lower() in _PACKED else f"Save it as one of {', '.join(ENDINGS)}."
        return f"{problem}; {near[0].name} is not read.", remedy
    packed = [entry.name for entry in sorted(root.iterdir()) if entry.suffix.lower() in _PACKED]
    if packed and not any(is_read(entry) for entry in root.iterdir()):
        problem = f"{problem}; {packed[0]} is packed, and not read"
        return (
            f"{problem}.",
            "Unpack it, and write a table that names its files: a row each, with image, text and label.",
        )
    others = [entry.name for entry in sorted(root.iterdir()) if is_read(entry)]
    here = f" (here: {', '.join(others[:8])}{' and more' if len(others) > 8 else ''})" if others else ""
    return f"{problem}{here}.", "Name your file with the option file or train, val and test."


def _first(root: Path, names: tuple[str, ...]) -> Path | None:
    """The file that has one of the names and an ending that is read, in whatever case."""
    there = [path for path in sorted(root.iterdir()) if is_read(path) and path.is_file()]
    paths = [path for name in names for path in there if path.name.partition(".")[0].lower() == name
             and path.name.lower().removesuffix(GZIP) == name + kind_of(path)]  # fmt: skip
    if len(paths) > 1:
        remedy = "Name the one to read with the option file or train, val and test, or take the other away."
        raise RowError(str(root), f"there are {paths[0].name} and {paths[1].name}.", remedy)
    return paths[0] if paths else None


def _existing(root: Path, split: str, name: str) -> Path:
    path = place_in(root, "own", split or "file", name)
    if not path.exists():
        raise RowError(str(path), "the file does not exist.", "Correct the option that names it.")
    return path


def read_source(source: Source, found: Findings, form: TableForm = UTF8) -> Iterator[tuple[str, Row]]:
    """The rows of a source, ``(file:row, row)`` each; a batch at a time is in memory."""
    path = source.path
    if source.layout == "classes":
        yield from class_rows(path, found)
    elif source.layout == METADATA:
        yield from named_rows(read_source(Source(path, source.split), found, form), path.parent, found)
    elif path.is_dir() and is_read(path):
        raise RowError(str(path), "this is a folder, where a file is expected.", "Name the file in it.")
    elif path.is_dir():
        yield from disk_rows(path)
    elif not is_read(path):
        remedy = "Unpack it." if path.suffix.lower() in _PACKED else f"Convert it to one of {', '.join(ENDINGS)}."
        raise RowError(str(path), f"files ending in {path.suffix!r} are not read.", remedy)
    elif kind_of(path) == ".parquet":
        yield from parquet_rows(path)
    elif kind_of(path) in TABLES:
        yield from table_rows(path, found, form)
    else:
        yield from json_rows(path, found)
