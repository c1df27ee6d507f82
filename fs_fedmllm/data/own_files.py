"""The files of your own data: where they are, and their rows in small batches."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fs_fedmllm.atomic import write_atomically
from fs_fedmllm.data.files import Row, json_rows
from fs_fedmllm.data.findings import Findings, RowError

ENDINGS = (".jsonl", ".json", ".parquet")
BATCH = 4096
#: Folder names of a ``datasets`` data set, by split.
_FOLDERS = {"train": ("train",), "val": ("val", "validation", "valid", "dev"), "test": ("test",)}


@dataclass(frozen=True)
class Source:
    """One file (or one ``datasets`` folder) and the split of its rows; empty if a column says it."""

    path: Path
    split: str


def find_sources(root: Path, file: str, named: Mapping[str, str]) -> list[Source]:
    """The files that the options name; where they name none, those with the usual names.

    Raises:
        DataError: a named file is not there, or there is nothing to read.
    """
    if file or any(named.values()):
        wanted = {"": file, **named}
        return [Source(_existing(root, name), split) for split, name in wanted.items() if name]
    if (root / "dataset_dict.json").is_file():
        found = [Source(root / name, split) for split, names in _FOLDERS.items() for name in names]
        return [source for source in found if source.path.is_dir()]
    if (root / "dataset_info.json").is_file():
        return [Source(root, "")]
    by_split = [Source(path, split) for split, names in _FOLDERS.items() if (path := _first(root, names))]
    if by_split:
        return by_split
    single = _first(root, ("data",))
    if single is None:
        names = "train, val, test or data with .jsonl, .json or .parquet"
        raise RowError(
            str(root), f"there is no {names}.", "Name your file with the option file or train, val and test."
        )
    return [Source(single, "")]


def _first(root: Path, names: tuple[str, ...]) -> Path | None:
    paths = [path for name in names for ending in ENDINGS if (path := root / (name + ending)).is_file()]
    if len(paths) > 1:
        remedy = "Name the one to read with the option file or train, val and test, or take the other away."
        raise RowError(str(root), f"there are {paths[0].name} and {paths[1].name}.", remedy)
    return paths[0] if paths else None


def _existing(root: Path, name: str) -> Path:
    path = root / name
    if not path.exists():
        raise RowError(str(path), "the file does not exist.", "Correct the option that names it.")
    return path


def read_source(source: Source, found: Findings) -> Iterator[tuple[str, Row]]:
    """The rows of a source, ``(file:row, row)`` each; a batch at a time is in memory."""
    path = source.path
    if path.is_dir():
        yield from _disk_rows(path)
    elif path.suffix == ".parquet":
        yield from _parquet_rows(path)
    elif path.suffix in (".jsonl", ".json"):
        yield from json_rows(path, found)
    else:
        raise RowError(str(path), f"files ending in {path.suffix!r} are not read.", f"Use {', '.join(ENDINGS)}.")


def _parquet_rows(path: Path) -> Iterator[tuple[str, Row]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        batches = pq.ParquetFile(path).iter_batches(batch_size=BATCH)
        yield from _numbered(path, batches)
    except pa.ArrowException as error:
        raise RowError(str(path), f"this is not a readable Parquet file ({error}).", "Write it again.") from error


def _disk_rows(path: Path) -> Iterator[tuple[str, Row]]:
    """Rows of a ``datasets`` folder, images not decoded; class labels become their names."""
    import datasets

    try:
        loaded = datasets.load_from_disk(str(path))
    except (OSError, ValueError) as error:
        remedy = "Write it with save_to_disk."
        raise RowError(str(path), f"this is not a saved data set ({error}).", remedy) from error
    names = {key: feature.names for key, feature in loaded.features.items() if hasattr(feature, "names")}
    for where, row in _numbered(path, loaded.data.table.to_batches(max_chunksize=BATCH)):
        yield where, {k: names[k][v] if k in names and v is not None and v >= 0 else v for k, v in row.items()}


def _numbered(path: Path, batches: Any) -> Iterator[tuple[str, Row]]:
    number = 0
    for batch in batches:
        for row in batch.to_pylist():
            number += 1
            yield f"{path}:{number}", row


def write_image(data: bytes, store: str, where: str) -> str:
    """The path of an image that a file holds as bytes; they are written to ``store`` once, named by their hash.

    Raises:
        DataError: there is no folder to write them to.
    """
    if not store:
        remedy = "Set the option extract_images to a folder inside the root that they may be written to."
        raise RowError(where, "the image is embedded in the file, as bytes.", remedy)
    path = os.path.join(store, hashlib.sha256(data).hexdigest()[:32])
    if not os.path.exists(path):
        write_atomically(Path(path), data, durable=False, private=True)
    return path
