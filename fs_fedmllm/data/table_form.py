"""How a CSV or TSV file is written: its encoding and its delimiter, as given or as its first lines show.

A delimiter is what alone divides the first line and the rows below it; where that is not clear, it has to be named.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fs_fedmllm.data import packed
from fs_fedmllm.data.files import MAX_ROW
from fs_fedmllm.data.findings import RowError
from fs_fedmllm.data.images import is_lfs_pointer, lfs_error
from fs_fedmllm.data.json_rows import OTHER_FILES
from fs_fedmllm.data.packed import kind_of, open_rows
from fs_fedmllm.data.row_values import shown
from fs_fedmllm.errors import ConfigError

#: Endings of tables, and the delimiter of each; an empty one is looked for.
TABLES = {".csv": "", ".tsv": "\t"}
#: What a delimiter may be where none is named; words for them in messages.
DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
#: Characters of a table's beginning that a delimiter is looked for in.
LOOKED_AT = 1 << 16
#: Lines that may stand between a title and the columns' names.
TITLES = 10
#: What to do about a title.
TITLE = "If it is a title, take it out, with what else stands above the columns' names."
_ENCODING = re.compile(
    r"utf-?(8|16|32)(-sig|-le|-be)?|cp\d{3,4}|iso8859-\d+|koi8-[rtu]|mac-[a-z]+|gb\w+|hz|big5\w*|shift_jis\w*|euc_\w+|"
    r"johab|ascii"
)
#: A byte that the encoding does not have, as the decoder marks it.
_UNDECODED = re.compile("[\udc80-\udcff]")
_SEP = re.compile(r"\ufeff?\"?sep=(.)\"?\s*", re.IGNORECASE)
_OTHER = {
    **{mark: said for mark, said in OTHER_FILES.items() if mark[:1] not in b"{[\0"},
    b"\xd0\xcf\x11\xe0": ("it is an Excel workbook (.xls).", "Save its sheet as CSV (UTF-8)."),
    b"PK\x03\x04": ("it is a zip archive or a spreadsheet (.xlsx, .ods).", "Save its sheet as CSV (UTF-8)."),
    **{
        mark: ("it is a web page or XML, not rows.", "Download the file itself.")
        for mark in (b"<!", b"<html", b"<?xml")
    },
}


@dataclass(frozen=True)
class TableForm:
    """How tables are written.

    Attributes:
        delimiter: between two cells; empty to look for it.
        encoding: of the text, by Python's name; empty for UTF-8.
    """

    delimiter: str = ""
    encoding: str = ""


def table_form(delimiter: str, encoding: str) -> TableForm:
    """The options ``delimiter`` and ``encoding``, checked.

    Raises:
        ConfigError: one of them cannot be.
    """
    mark = {"tab": "\t", "\\t": "\t", **{word: mark for mark, word in DELIMITERS.items()}}.get(delimiter, delimiter)
    if mark and (len(mark) != 1 or mark in '"\r\n\0' or mark.isalnum()):
        raise ConfigError(f"own: delimiter must be one character, such as ';' or tab, not {delimiter!r}.")
    if not encoding:
        return TableForm(mark)
    try:
        name = codecs.lookup(encoding).name
    except (LookupError, ValueError):
        name = ""
    if not _ENCODING.fullmatch(name):
        raise ConfigError(
            f"own: encoding {encoding!r} is not one that texts are read in; give utf-8, utf-16, cp1252 (Windows, "
            "Western Europe), cp1251, gb18030, shift_jis or the like."
        )
    return TableForm(mark, name)


def delimiter_word(delimiter: str) -> str:
    """What a delimiter is called in messages."""
    return DELIMITERS.get(delimiter) or repr(delimiter)


def encoding_of(path: Path, form: TableForm) -> str:
    """The encoding to read a table in.

    Raises:
        DataError: its beginning says that it is something else.
    """
    with open_rows(path) as stream:
        head = stream.read(256)
    if is_lfs_pointer(head):
        raise lfs_error(str(path), path.name)
    wide = form.encoding.startswith(("utf-16", "utf-32"))
    for mark, (problem, remedy) in _OTHER.items():
        if head.startswith(mark) and not (wide and mark in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            if "UTF-16" in problem:
                remedy = f"{remedy[:-1]}, or say fedmllm.data: {{encoding: utf-16}}."
            raise RowError(str(path), problem, remedy)
    if not wide and head.count(0) > len(head) // 4:
        name = "utf-16-le" if head[1:2] == b"\0" else "utf-16-be"
        remedy = f"Save it as UTF-8, or say fedmllm.data: {{encoding: {name}}}."
        raise RowError(str(path), "it is UTF-16 text without a mark, or no text at all.", remedy)
    return "utf-8-sig" if form.encoding in ("", "utf-8") else form.encoding


def text_lines(path: Path, stream: io.BufferedIOBase | object, encoding: str) -> Iterator[str]:
    """The lines of a text, with their ends.

    Raises:
        DataError: a line is not in the encoding, holds a NUL, or has no end.
    """
    text = io.TextIOWrapper(stream, encoding, errors="surrogateescape", newline="")  # type: ignore[type-var]
    number = 0
    while True:
        number += 1
        where = f"{path}:{number}"
        try:
            line = text.readline(MAX_ROW + 1)
        except UnicodeError as error:
            raise RowError(where, f"the text is not {encoding} here or below.", "Correct the encoding.") from error
        if not line:
            return
        if number > packed.MAX_LINES:
            raise packed.too_many_lines(path)
        if len(line) > MAX_ROW:
            raise RowError(where, f"the line has more than {MAX_ROW:,} characters.", "Write one row a line.")
        if "\0" in line:
            problem = "the line holds a NUL character, which no text has."
            raise RowError(where, problem, "Save the file as UTF-8 text, or copy it again.")
        if not line.isascii() and (odd := _UNDECODED.search(line)):
            raise RowError(where, *_not_in(encoding, ord(odd[0]) - 0xDC00))
        yield line


def _not_in(encoding: str, byte: int) -> tuple[str, str]:
    if encoding == "utf-8-sig":
        return f"the text is not UTF-8 (byte 0x{byte:02x}).", (
            "Save the file as UTF-8 (Excel: CSV UTF-8), or say what it is, such as fedmllm.data: {encoding: cp1252} "
            "for Windows in Western Europe."
        )
    return f"the text is not {encoding} (byte 0x{byte:02x}).", "Say another encoding, or save the file as UTF-8."


def delimiter_of(path: Path, encoding: str, form: TableForm) -> tuple[str, int]:
    """The delimiter, and how many lines stand before the columns' names (Excel's ``sep=;``).

    Raises:
        DataError: none divides the first line, or more than one may be meant.
    """
    with open_rows(path) as stream:
        lines, length = list[str](), 0
        for line in text_lines(path, stream, encoding):
            lines.append(line)
            length += len(line)
            if length > LOOKED_AT:
                break
    said = _SEP.fullmatch(lines[0]) if lines else None
    if said is not None:
        lines = lines[1:]
    found = {mark: _columns(lines, mark, length > LOOKED_AT) for mark in DELIMITERS}
    named = form.delimiter or (said[1] if said else "") or TABLES.get(kind_of(path), "")
    if named:
        better = [mark for mark, columns in found.items() if columns and mark != named]
        if better and not _columns(lines, named, length > LOOKED_AT):
            problem = f"no {delimiter_word(named)} divides its first line, and a {delimiter_word(better[0])} does."
            raise RowError(str(path), problem, f"Say fedmllm.data: {{delimiter: {delimiter_word(better[0])}}}.")
        return named, int(said is not None)
    divides = {mark: columns for mark, columns in found.items() if columns}
    even = [mark for mark, columns in divides.items() if len(columns) == 1]
    chosen = list(divides) if len(divides) == 1 else even
    if not lines:
        return ",", 0
    if len(chosen) != 1:
        words = " and ".join(delimiter_word(mark) for mark in divides) if divides else ""
        problem = (
            f"its first line can be divided by {words}." if divides
            else f"its first line, {shown(lines[0].strip(), 60)}, is one column."
        )  # fmt: skip
        remedy = "Say which it is: fedmllm.data: {delimiter: ...} (comma, semicolon, tab, bar)."
        if not divides and _divided_below(lines, length > LOOKED_AT):
            remedy = f"{TITLE} Else s{remedy[1:]}"
        raise RowError(str(path), problem, remedy)
    return chosen[0], 0


def _divided_below(lines: Sequence[str], cut: bool) -> bool:
    """Whether the lines below the first few have several cells each, all as many."""
    starts = range(1, min(TITLES, len(lines) - 1))
    return any(len(_columns(lines[start:], mark, cut)) == 1 for start in starts for mark in DELIMITERS)


def _columns(lines: Sequence[str], mark: str, cut: bool) -> set[int]:
    """How many cells the rows of a table's beginning have; empty if the mark does not divide the first one.

    A row whose quotes do not fit counts as one of no cells.
    """
    reader = csv.reader(iter(lines), delimiter=mark, strict=True)
    counts = list[int]()
    try:
        for record in reader:
            if record:
                counts.append(len(record))
    except csv.Error:
        counts.append(0)
    if cut and len(counts) > 1:
        counts.pop()
    return set(counts) if counts and counts[0] > 1 else set()
