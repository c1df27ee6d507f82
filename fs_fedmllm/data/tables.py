"""Rows of CSV and TSV files, as spreadsheets and programs write them: nothing is guessed without a word.

Every cell is text as it is written (``007`` stays so, ``=1+1`` is not computed), an empty one is absent.
:mod:`fs_fedmllm.data.table_form` finds the encoding and the delimiter.
"""

from __future__ import annotations

import csv
import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from fs_fedmllm.data.findings import Findings, RowError
from fs_fedmllm.data.packed import kind_of, open_rows
from fs_fedmllm.data.row_values import Row, shown
from fs_fedmllm.data.table_form import (
    TITLE,
    TITLES,
    TableForm,
    delimiter_of,
    delimiter_word,
    encoding_of,
    text_lines,
)

#: Characters of one cell, and columns of a table.
MAX_CELL, MAX_COLUMNS = 1 << 24, 4096


def table_rows(path: Path, found: Findings, form: TableForm) -> Iterator[tuple[str, Row]]:
    """The rows of a CSV or TSV file, ``(file:line, row)`` each; a cell is text, or None where it is empty.

    Args:
        path: the file; packed with gzip where its name ends in ``.gz``.
        found: where a wrong row goes.
        form: how it is written.

    Raises:
        DataError: it is no such file, or not written as ``form`` says.
    """
    encoding = encoding_of(path, form)
    delimiter, skipped = delimiter_of(path, encoding, form)
    if kind_of(path) == ".csv" and delimiter != ",":
        found.note(str(path), f"Its cells are taken to be divided by {delimiter_word(delimiter)}.")
    csv.field_size_limit(max(csv.field_size_limit(), MAX_CELL))
    with open_rows(path) as stream:
        lines = text_lines(path, stream, encoding)
        for _ in range(skipped):
            next(lines, "")
        yield from _records(path, found, _Reader(path, lines, delimiter, skipped), delimiter)


class _Reader:
    """The records of a table, each with the line that it begins in."""

    def __init__(self, path: Path, lines: Iterator[str], delimiter: str, before: int):
        self._path, self._before = path, before
        self._reader = csv.reader(lines, delimiter=delimiter, strict=True)

    def __iter__(self) -> Iterator[tuple[int, list[str]]]:
        while True:
            line = self._before + self._reader.line_num + 1
            try:
                record = next(self._reader)
            except StopIteration:
                return
            except csv.Error as error:
                raise _quotes(f"{self._path}:{line}", str(error)) from error
            if record:
                yield line, record


def _quotes(where: str, said: str) -> RowError:
    if "limit" in said:
        problem = f"a cell that begins here has more than {MAX_CELL:,} characters."
        return RowError(where, problem, 'Is a quote (") left open in this row? Close it, or write a quote as "".')
    problem = f"the row's quotes do not fit ({said})."
    return RowError(
        where,
        problem,
        'Put a cell that holds a delimiter, a line break or a quote into quotes, and write its own as "".',
    )


def _records(path: Path, found: Findings, reader: _Reader, delimiter: str) -> Iterator[tuple[str, Row]]:
    records = iter(reader)
    line, first = next(records, (1, []))
    if not first:
        return found.error(RowError(str(path), "the file is empty.", "Write the columns' names in its first line."))
    names = _names(f"{path}:{line}", first)
    records, below = _begun(records, names_one=_fills(first) == [0] and len(first) > 1)
    if below:
        problem = f"the first line names 1 of {len(names)} columns, and line {below[0]} fills {below[1]} cells."
        return found.error(RowError(f"{path}:{line}", problem, f"{TITLE} Else name each column."))
    empty = 0
    while True:
        try:
            line, cells = next(records)
        except StopIteration:
            break
        except RowError as error:  # where the next row begins is anybody's guess
            return found.error(error)
        if not any(cells):
            empty += 1
            continue
        if len(cells) != len(names):
            found.error(_ragged(f"{path}:{line}", cells, names, delimiter))
            continue
        yield f"{path}:{line}", {name: cell or None for name, cell in zip(names, cells, strict=True)}
    if empty:
        found.note(str(path), f"Rows whose cells are all empty, passed over: {empty:,}.")


def _fills(cells: Sequence[str]) -> list[int]:
    """The places of the cells that are not blank."""
    return [place for place, cell in enumerate(cells) if cell.strip()]


def _begun(
    records: Iterator[tuple[int, list[str]]], *, names_one: bool
) -> tuple[Iterator[tuple[int, list[str]]], tuple[int, int] | None]:
    """The records again, and the first of the next that fills several cells: its line, and how many.

    Args:
        records: below the first line.
        names_one: whether that has something in its first cell alone, as a title has; else nothing is looked for.
    """
    looked: list[tuple[int, list[str]]] = []
    below = None
    try:
        while names_one and below is None and len(looked) < TITLES:
            looked.append(next(records))
            count = len(_fills(looked[-1][1]))
            below = (looked[-1][0], count) if count > 1 else None
    except (StopIteration, RowError):  # what cannot be read is told at its turn
        pass
    return itertools.chain(looked, records), below


def _ragged(where: str, cells: Sequence[str], names: Sequence[str], delimiter: str) -> RowError:
    problem = f"the row has {len(cells)} cells, and the first line names {len(names)} columns."
    if len(cells) > len(names) and not any(cells[len(names) :]):
        remedy = (
            f"Its last cells are empty: end the first line with a {delimiter_word(delimiter)} too, or no row with one."
        )
        return RowError(where, problem, remedy)
    if len(cells) > len(names):
        return RowError(
            where,
            problem,
            f"Put a text that holds a {delimiter_word(delimiter)} into quotes, without a blank before them.",
        )
    return RowError(
        where, problem, f"Write every cell, an empty one too, with a {delimiter_word(delimiter)} between two."
    )


def _names(where: str, first: Sequence[str]) -> list[str]:
    """The columns' names; one without a name, as pandas writes its index, is called by its place.

    Raises:
        DataError: two have the same name, there are too many, or the line looks like a row.
    """
    names = [name.strip().removeprefix("\ufeff") or f"(column {i})" for i, name in enumerate(first, 1)]
    if len(names) > MAX_COLUMNS:
        problem = f"the first line names {len(names):,} columns; at most {MAX_COLUMNS:,} are read."
        raise RowError(where, problem, "Take out what is not needed, or name the delimiter.")
    twice = dict.fromkeys(name for name in names if names.count(name) > 1)
    if twice:
        problem = f"the first line names {', '.join(map(repr, twice))} more than once."
        raise RowError(where, problem, "Give each column a name of its own.")
    data = next((name for name in names if _looks_like_data(name)), None)
    if data is not None:
        problem = f"the first line is to name the columns, and holds {shown(data, 60)}."
        raise RowError(where, problem, "Write the columns' names in the first line.")
    return names


def _looks_like_data(name: str) -> bool:
    return bool(re.fullmatch(r"[^\n]{1,500}\.(png|jpe?g|tiff?|bmp|gif|webp|dcm|hei[cf])", name.lower()))
