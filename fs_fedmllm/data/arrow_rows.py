"""Rows of Parquet files and of ``datasets`` folders, a small batch at a time; images are not decoded."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fs_fedmllm.data.findings import RowError
from fs_fedmllm.data.packed import RATIO, SWOLLEN
from fs_fedmllm.data.row_values import Row, shown
from fs_fedmllm.files.untrusted import open_regular, parse_json, read_json

#: Which files a folder of ``datasets`` consists of.
_STATE = "state.json"
BATCH = 4096
#: Rows of a batch where values are nested, such as embedded images.
BATCH_NESTED = 64
#: Rows of a Parquet file.
MAX_ROWS = 20_000_000


def parquet_rows(path: Path) -> Iterator[tuple[str, Row]]:
    """Rows of a Parquet file; class labels become their names where ``datasets`` wrote it.

    Raises:
        DataError: it is not readable, or becomes far more than a file of its size can mean.
    """
    try:
        with open_regular(path) as stream:
            schema = _parquet(stream).schema_arrow
            stream.seek(0)
            size = os.fstat(stream.fileno()).st_size
            rows = _bounded(_numbered(path, _batches(path, stream, schema)), size, str(path))
            yield from _named(rows, _declared(schema.metadata))
    except RowError:
        raise
    except Exception as error:  # a parser that is fed a hostile file may raise anything
        said = f"{type(error).__name__}: {error}"
        raise RowError(str(path), f"this is not a readable Parquet file ({said}).", "Write it again.") from error


def _parquet(stream: Any, **options: Any) -> Any:
    import pyarrow.parquet as pq

    bounds = {"thrift_string_size_limit": 16 << 20, "thrift_container_size_limit": 1 << 20}
    return pq.ParquetFile(stream, **bounds, **options)


def class_labels(path: Path) -> dict[str, list[str]]:
    """The names of the class labels that a Parquet file or a ``datasets`` folder declares, by column.

    Nothing is declared by a file that cannot be read; reading its rows says better what is wrong.
    """
    try:
        if path.is_dir():
            return _features(read_json(path / "dataset_info.json").get("features"))
        with open_regular(path) as stream:
            return _declared(_parquet(stream).schema_arrow.metadata)
    except Exception:  # as above
        return {}


def _declared(metadata: Mapping[bytes, bytes] | None) -> dict[str, list[str]]:
    """Class labels in what ``datasets`` writes beside a schema; none if it is damaged."""
    try:
        told = parse_json((metadata or {}).get(b"huggingface", b"{}"))
        return _features(told["info"]["features"])
    except (ValueError, KeyError, TypeError):
        return {}


def _features(features: Any) -> dict[str, list[str]]:
    found = {}
    for column, feature in features.items() if isinstance(features, Mapping) else ():
        names = feature.get("names") if isinstance(feature, Mapping) and feature.get("_type") == "ClassLabel" else None
        if isinstance(names, list) and all(isinstance(name, str) for name in names):
            found[str(column)] = names
    return found


def _named(rows: Iterator[tuple[str, Row]], names: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, Row]]:
    """The rows with names for class labels; -1, which ``datasets`` writes where there is none, is none."""

    def name(column: str, value: Any) -> Any:
        if column not in names or type(value) is not int or value >= len(names[column]):
            return value
        return names[column][value] if value >= 0 else None

    for where, row in rows:
        yield where, {column: name(column, value) for column, value in row.items()} if names else row


def _batches(path: Path, stream: Any, schema: Any) -> Iterator[Any]:
    """The batches of a Parquet file, whose texts stay as short as they are stored where a value is repeated.

    A megabyte that stands once in a column's dictionary can be the value of a million rows.
    """
    import pyarrow as pa

    kinds = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
    flat = [field.name for field in schema if any(kind(field.type) for kind in kinds)]
    file = _parquet(stream, read_dictionary=flat)
    _check_declared(path, file.metadata, os.fstat(stream.fileno()).st_size)
    large = (pa.types.is_nested, *kinds[2:])  # embedded images, perhaps
    nested = any(kind(field.type) for field in schema for kind in large)
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


def disk_rows(path: Path) -> Iterator[tuple[str, Row]]:
    """Rows of a ``datasets`` folder, images not decoded; class labels become their names."""
    import datasets

    _require_files(path)
    try:
        loaded = datasets.load_from_disk(str(path))
        names = {key: feature.names for key, feature in loaded.features.items() if hasattr(feature, "names")}
        size = sum(file.stat().st_size for file in path.glob("*.arrow"))
        batches = loaded.data.table.to_batches(max_chunksize=BATCH_NESTED)
        yield from _named(_bounded(_numbered(path, batches), size, str(path)), names)
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
    try:
        named = [item["filename"] for item in read_json(folder / _STATE)["_data_files"]]
    except (OSError, ValueError, LookupError, TypeError):  # the reader says what is wrong with it
        return
    for name in named:
        if not isinstance(name, str) or Path(name).name != name:
            problem = f"it names the file {shown(name)}, which is not in this folder."
            raise RowError(str(folder / _STATE), problem, "Write it with save_to_disk.")


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
