"""Rows of JSON lists and JSON Lines, each with the line that it begins in."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fs_fedmllm.data import packed
from fs_fedmllm.data.characters import half_characters
from fs_fedmllm.data.files import MAX_ROW, decode, read_bytes
from fs_fedmllm.data.findings import Findings, RowError
from fs_fedmllm.data.images import is_lfs_pointer, lfs_error
from fs_fedmllm.data.packed import open_rows
from fs_fedmllm.data.row_values import Row, shown
from fs_fedmllm.files.untrusted import DECODER, parse_json, read_regular

#: What the list of rows is called in files that hold more than it.
_ENVELOPES = ("data", "rows", "records", "items", "annotations", "examples", "samples", "questions", "train", "test")
_AS_ROWS = (
    "Write a list of objects, [{...}, {...}], or one object a line; pandas: "
    "to_json(path, orient='records', lines=True)."
)
_SPACE = re.compile(r"\s*")
#: How files begin that are no JSON, whatever they are called: what they are, and what to do.
OTHER_FILES = {
    b"\x1f\x8b": ("it is compressed with gzip.", "Give its name the ending .gz, or unpack it."),
    b"PK\x03\x04": ("it is a zip archive or a spreadsheet.", "Unpack it, or save its rows as JSON Lines."),
    b"PAR1": ("it is a Parquet file.", "Give it the ending .parquet."),
    b"\xff\xfe": ("it is UTF-16 text.", "Save the file as UTF-8."),
    b"\xfe\xff": ("it is UTF-16 text.", "Save the file as UTF-8."),
    b"{\0": ("it is UTF-16 or UTF-32 text.", "Save the file as UTF-8."),
    b"[\0": ("it is UTF-16 or UTF-32 text.", "Save the file as UTF-8."),
    b"\0{": ("it is UTF-16 text.", "Save the file as UTF-8."),
    b"\0[": ("it is UTF-16 text.", "Save the file as UTF-8."),
    b"\0\0": ("it is UTF-32 text, or no text.", "Save the file as UTF-8."),
}


def json_rows(path: Path, found: Findings) -> Iterator[tuple[str, Row]]:
    """The objects of a JSON list, or of JSON Lines: ``(file:line, object)`` each."""
    with open_rows(path) as stream:
        head = stream.read(64)
    for mark, (problem, remedy) in OTHER_FILES.items():
        if head.startswith(mark):
            return found.error(RowError(str(path), problem, remedy))
    is_list = head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"[")
    rows = _list_rows(path, found) if is_list else _line_rows(path, found)
    first = list(itertools.islice(rows, 2))
    if not is_list and len(first) == 1 and (said := _whole_table(first[0][1])):
        return found.error(RowError(str(path), f"the file holds one JSON object, {said}, not rows.", _AS_ROWS))
    for where, row in itertools.chain(first, rows):
        halves = dict(half_characters(row))
        if not halves:
            yield where, row
            continue
        key, half = next(iter(halves.items()))
        problem = f"{ascii(key)[1:-1]} holds half a character ({half}, a lone surrogate), which cannot be encoded."
        found.error(RowError(where, problem, "The text was cut inside a character: write it again whole."))


def _whole_table(row: Row) -> str:
    """What the only object of a file is where it is no row: columns, as pandas writes them, or a list's envelope."""
    values = list(row.values())
    if len(values) > 1:
        by_index = all(isinstance(value, dict) and value for value in values)
        if by_index and len({tuple(value) for value in values}) == 1 and next(iter(values[0])).isdigit():
            return "columns by row number (pandas's to_json)"
        if all(isinstance(value, list) and len(value) > 1 for value in values) and len(set(map(len, values))) == 1:
            return "columns as lists"
    for name, value in row.items():
        if str(name).lower() in _ENVELOPES and isinstance(value, list) and all(isinstance(v, dict) for v in value):
            return f"whose {shown(name, 40)} is a list of rows"
    return ""


def _bad_json(where: str, error: Exception) -> RowError:
    return RowError(where, f"this is not valid JSON ({error}).", "Correct the row, or download the file again.")


def _not_object(where: str, row: Any) -> RowError:
    return RowError(where, f"a JSON object is expected, not {type(row).__name__}.", "Write one {...} per row.")


def _object(row: Any, where: str) -> Row:
    if not isinstance(row, dict):
        raise _not_object(where, row)
    return row


def _line_rows(path: Path, found: Findings) -> Iterator[tuple[str, Row]]:
    with open_rows(path) as stream:
        # A line is read up to its bound: a file without line breaks must not be one row of gigabytes.
        for number, raw in enumerate(iter(lambda: stream.readline(MAX_ROW + 1), b""), 1):
            where = f"{path}:{number}"
            if number > packed.MAX_LINES:
                return found.error(packed.too_many_lines(path))
            if len(raw) > MAX_ROW:
                problem = f"the row has more than {MAX_ROW:,} bytes."
                return found.error(RowError(where, problem, "Write images as files, and one row a line."))
            if number == 1 and is_lfs_pointer(raw):
                raise lfs_error(where, path.name)
            if not raw.strip():
                continue
            try:
                row = _object(parse_json(decode(raw, where), unique_keys=True), where)
            except RowError as error:
                found.error(error)
            except ValueError as error:
                if number == 1 and _is_one_object(path):
                    problem = "the file holds one JSON object over several lines, not rows."
                    remedy = "Write a list of objects, [{...}, {...}], or one object a line."
                    return found.error(RowError(str(path), problem, remedy))
                found.error(_bad_json(where, error))
            else:
                yield where, row


def _is_one_object(path: Path) -> bool:
    """Whether a file that is no JSON Lines is JSON as a whole; a large one is not looked at."""
    try:
        return isinstance(parse_json(decode(read_regular(path, MAX_ROW), str(path))), dict)
    except (OSError, ValueError, RowError):
        return False


def _list_rows(path: Path, found: Findings) -> Iterator[tuple[str, Row]]:
    """Walks the list one object at a time, so that a bad row is named by its line."""
    text = decode(read_bytes(path), str(path))
    parse = DECODER.raw_decode
    one_line = text.strip().count("\n") == 0
    at, line = text.index("[") + 1, 1 + text.count("\n", 0, text.index("["))
    number = 0

    def skip(start: int) -> int:
        nonlocal line
        end = _SPACE.match(text, start).end()  # type: ignore[union-attr]
        line += text.count("\n", start, end)
        return end

    def place() -> str:
        return f"{path}:{line}" + (f" (row {number})" if one_line else "")

    at = skip(at)
    while text[at : at + 1] != "]":
        if number:
            if text[at : at + 1] != ",":
                problem = f"there is no comma after row {number} (JSON)."
                return found.error(RowError(place(), problem, "Put one between two rows, and ] after the last."))
            at = skip(at + 1)
        number += 1
        start = at
        try:
            row, at = parse(text, start)
        except (ValueError, RecursionError) as error:  # no JSON, a number of thousands of digits, a deep nesting
            return found.error(_bad_json(place(), error))  # where the next row begins is anybody's guess
        where = place()
        line += text.count("\n", start, at)
        if isinstance(row, dict):
            yield where, row
        else:
            found.error(_not_object(where, row))
        at = skip(at)
    if text[at + 1 :].strip():
        skip(at + 1)
        problem = f"there is more after the list's end: {shown(text[at + 1 :].strip(), 40)}."
        found.error(RowError(f"{path}:{line}", problem, "Put all rows into one list."))
