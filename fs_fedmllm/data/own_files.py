"""The files of your own data: where they are, and their rows in small batches."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fs_fedmllm.data.files import Row, json_rows
from fs_fedmllm.data.findings import Findings, RowError
from fs_fedmllm.files.atomic import write_atomically
from fs_fedmllm.files.untrusted import open_regular

ENDINGS = (".jsonl", ".json", ".parquet")
_PACKED = (".gz", ".zip", ".bz2", ".xz", ".zst", ".tar", ".tgz", ".7z")
BATCH = 4096
#: Rows of a batch where values are nested, such as embedded images.
BATCH_NESTED = 64
#: Rows of a Parquet file.
MAX_ROWS = 20_000_000
#: A file may be read into so many bytes in any case, and beyond that into so many times its size.
SWOLLEN, RATIO = 256 << 20, 100
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
        raise RowError(str(root), *_nothing_to_read(root))
    return [Source(single, "")]


def _nothing_to_read(root: Path) -> tuple[str, str]:
    """Problem and remedy where no file has one of the usual names; what comes near is named."""
    problem = "there is no train, val, test or data with .jsonl, .json or .parquet"
    stems = {name for names in _FOLDERS.values() for name in names} | {"data"}
    near = [entry for entry in sorted(root.iterdir()) if entry.name.partition(".")[0] in stems]
    for entry in near:
        if entry.suffix in ENDINGS:
            kind = "a folder" if entry.is_dir() else "a link to no file" if entry.is_symlink() else "no regular file"
            return f"{problem}: {entry.name} is {kind}.", "Put the file itself there."
    if near:
        remedy = "Unpack it." if near[0].suffix in _PACKED else (
            f"Convert it, such as pandas.read_csv({near[0].name!r}).to_json('{near[0].stem}.jsonl', orient='records', "
            "lines=True)."
        )  # fmt: skip
        return f"{problem}; {near[0].name} is not read.", remedy
    others = [entry.name for entry in sorted(root.iterdir()) if entry.suffix in ENDINGS]
    here = f" (here: {', '.join(others[:8])}{' and more' if len(others) > 8 else ''})" if others else ""
    return f"{problem}{here}.", "Name your file with the option file or train, val and test."


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
    if path.is_dir() and path.suffix in ENDINGS:
        raise RowError(str(path), "this is a folder, where a file is expected.", "Name the file in it.")
    if path.is_dir():
        yield from _disk_rows(path)
    elif path.suffix == ".parquet":
        yield from _parquet_rows(path)
    elif path.suffix in (".jsonl", ".json"):
        yield from json_rows(path, found)
    else:
        remedy = "Unpack it." if path.suffix in _PACKED else f"Convert it to one of {', '.join(ENDINGS)}."
        raise RowError(str(path), f"files ending in {path.suffix!r} are not read.", remedy)


def _parquet_rows(path: Path) -> Iterator[tuple[str, Row]]:
    try:
        with open_regular(path) as stream:
            size = os.fstat(stream.fileno()).st_size
            yield from _bounded(_numbered(path, _batches(path, stream)), size, str(path))
    except RowError:
        raise
    except Exception as error:  # a parser that is fed a hostile file may raise anything
        said = f"{type(error).__name__}: {error}"
        raise RowError(str(path), f"this is not a readable Parquet file ({said}).", "Write it again.") from error


def _batches(path: Path, stream: Any) -> Iterator[Any]:
    """The batches of a Parquet file, whose texts stay as short as they are stored where a value is repeated.

    A megabyte that stands once in a column's dictionary can be the value of a million rows.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    bounds = {"thrift_string_size_limit": 16 << 20, "thrift_container_size_limit": 1 << 20}
    schema = pq.ParquetFile(stream, **bounds).schema_arrow
    stream.seek(0)
    kinds = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
    flat = [field.name for field in schema if any(kind(field.type) for kind in kinds)]
    file = pq.ParquetFile(stream, read_dictionary=flat, **bounds)
    _check_declared(path, file.metadata, os.fstat(stream.fileno()).st_size)
    nested = any(pa.types.is_nested(field.type) for field in schema)
    yield from file.iter_batches(batch_size=BATCH_NESTED if nested else BATCH)


def _check_declared(path: Path, metadata: Any, size: int) -> None:
    """Refuse what a file says that it will become, before any of it is made."""
    if metadata.num_rows > MAX_ROWS:
        raise RowError(
            str(path), f"the file declares {metadata.num_rows:,} rows; at most {MAX_ROWS:,} are read.", "Split it."
        )
    # Not column by column: pyarrow ends the process at a column whose statistics are damaged.
    large = sum(metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups))
    if large > SWOLLEN and large > RATIO * size:
        problem = f"it declares {large:,} bytes of values in a file of {size:,} (decompression bomb)."
        raise RowError(str(path), problem, "Write the file again, or remove it.")


def _bounded(rows: Iterator[tuple[str, Row]], size: int, where: str) -> Iterator[tuple[str, Row]]:
    """The rows, until they are far more than a file of this size can mean."""
    total, most = 0, max(SWOLLEN, RATIO * size)
    for place, row in rows:
        total += sum(_weight(value) for value in row.values())
        if total > most:
            problem = f"its rows hold more than {most:,} bytes, where the file has {size:,} (decompression bomb)."
            raise RowError(where, problem, "Write the file again, or remove it.")
        yield place, row


def _weight(value: Any) -> int:
    """Bytes of a value, about."""
    if isinstance(value, str | bytes):
        return len(value)
    if isinstance(value, dict):
        return sum(_weight(item) for item in value.values())
    if isinstance(value, list):
        return 64 * len(value) + sum(_weight(item) for item in value)
    return 8


def _disk_rows(path: Path) -> Iterator[tuple[str, Row]]:
    """Rows of a ``datasets`` folder, images not decoded; class labels become their names."""
    import datasets

    _require_files(path)
    try:
        loaded = datasets.load_from_disk(str(path))
        names = {key: feature.names for key, feature in loaded.features.items() if hasattr(feature, "names")}
        size = sum(file.stat().st_size for file in path.glob("*.arrow"))
        batches = loaded.data.table.to_batches(max_chunksize=BATCH_NESTED)
        for where, row in _bounded(_numbered(path, batches), size, str(path)):
            yield where, {k: names[k][v] if k in names and v is not None and v >= 0 else v for k, v in row.items()}
    except RowError:
        raise
    except Exception as error:  # as above
        said = f"{type(error).__name__}: {error}"
        raise RowError(str(path), f"this is not a saved data set ({said}).", "Write it with save_to_disk.") from error


def _require_files(folder: Path) -> None:
    """A pipe under a data set's file name would be waited for."""
    for path in folder.iterdir():
        try:
            if not path.is_dir():
                open_regular(path).close()
        except OSError as error:
            problem = f"it cannot be read: {error.strerror}."
            raise RowError(str(path), problem, "Write it with save_to_disk.") from error


def _numbered(path: Path, batches: Any) -> Iterator[tuple[str, Row]]:
    number = 0
    for batch in batches:
        try:
            columns = [_values(column) for column in batch.columns]
        except UnicodeDecodeError:
            raise _not_utf8(path, number, batch) from None
        for values in zip(*columns, strict=True):
            number += 1
            yield f"{path}:{number}", dict(zip(batch.schema.names, values, strict=True))


def _not_utf8(path: Path, before: int, batch: Any) -> RowError:
    """The error for the first text of a batch that is not UTF-8, such as half a character that some writers let in."""
    for i in range(batch.num_rows):
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            try:
                column.slice(i, 1).to_pylist()
            except UnicodeDecodeError as error:
                problem = f"{name} is not UTF-8 text (byte {error.start} of it; half a character, perhaps)."
                return RowError(f"{path}:{before + i + 1}", problem, "Write the text again, whole and as UTF-8.")
    return RowError(str(path), "a text in it is not UTF-8.", "Write the file again.")


def _values(column: Any) -> list[Any]:
    """A column's values; those that its dictionary has once are one object for all their rows."""
    import pyarrow as pa

    if not isinstance(column, pa.DictionaryArray):
        values: list[Any] = column.to_pylist()
        return values
    entries = column.dictionary.to_pylist()
    return [None if index is None else entries[index] for index in column.indices.to_pylist()]


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
