"""Reading annotation files: where they lie, their rows with line numbers, their fingerprint."""

from __future__ import annotations

import codecs
import hashlib
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from fs_fedmllm.data import packed
from fs_fedmllm.data.characters import half_characters
from fs_fedmllm.data.findings import Findings, RowError
from fs_fedmllm.data.images import is_lfs_pointer, lfs_error
from fs_fedmllm.data.packed import open_rows
from fs_fedmllm.data.sample import Sample
from fs_fedmllm.errors import ConfigError
from fs_fedmllm.files.untrusted import DECODER, open_regular, parse_json, read_regular

Row = Mapping[str, Any]
Rows = Iterable[tuple[str, Row]]

#: How many folders deep an archive may have been unpacked.
DEPTH = 4
#: Folders that hold only images; looking for an annotation file in them would cost time for nothing.
IMAGE_FOLDERS = frozenset({"img", "imgs", "images", "data_image", "VQA_RAD Image Folder"})

#: Bytes of a JSON list, which is read in one piece, and of one row of JSON Lines.
MAX_LIST, MAX_ROW = 1 << 30, 64 << 20

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


def find(root: Path, names: Iterable[str], *, folder: bool = False) -> Path | None:
    """The file (or folder) with one of the names that lies least deep under ``root``, or None.

    Archives unpack into folders that are nested once or twice; two finds at the same depth are an error,
    because a guess could read the wrong edition.
    """
    wanted = list(names)
    level = [str(root)]
    for _ in range(DEPTH + 1):
        hits: dict[str, list[str]] = {}
        below: list[str] = []
        for place in level:
            with os.scandir(place) as entries:
                for entry in sorted(entries, key=lambda e: e.name):
                    is_folder = entry.is_dir(follow_symlinks=False)
                    if entry.name in wanted and (entry.is_dir() if folder else entry.is_file()):
                        hits.setdefault(entry.name, []).append(entry.path)
                    elif is_folder and not entry.name.startswith(".") and entry.name not in IMAGE_FOLDERS:
                        below.append(entry.path)
        for name in wanted:
            if len(found := hits.get(name, [])) > 1:
                raise RowError(
                    str(root), f"{name} is there twice: {found[0]} and {found[1]}.", "Point the root at one of them."
                )
            if found:
                return Path(found[0])
        level = below
    return None


def find_or_fail(root: Path, names: Iterable[str], remedy: str, *, folder: bool = False) -> Path:
    """As ``find``, but nothing found is an error that says what to do."""
    names = list(names)
    path = find(root, names, folder=folder)
    if path is None:
        kind = "folder" if folder else "file"
        raise RowError(str(root), f"no {kind} {' or '.join(names)} in this folder or the {DEPTH} below it.", remedy)
    return path


def folder_in(root: Path, data_set: str, option: str, name: str) -> Path:
    """A set's own folder below the data root.

    Raises:
        ConfigError: it is not there, or not below the root.
    """
    folder = root / name
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise ConfigError(f"{data_set}: the option {option} must be a folder below data.root, not {name!r}.")
    if not folder.is_dir():
        raise ConfigError(
            f"{data_set}: there is no folder {folder}; put the data there, or name the folder with the option "
            f"{option}."
        )
    return folder


def is_below(root: Path, name: str) -> bool:
    """Whether a path that begins at a folder stays in it, or is it; links below it are taken as they are called."""
    full = os.path.abspath(root / name)
    homes = (os.path.abspath(root), os.path.realpath(root))  # an absolute path may know a linked root by its own name
    return any(os.path.commonpath([full, home]) == home for home in homes)


def place_in(root: Path, data_set: str, option: str, name: str) -> Path:
    """What an option names in the data's folder, a file or a folder.

    Raises:
        ConfigError: it leads out of it.
    """
    if not is_below(root, name):
        raise ConfigError(
            f"{data_set}: {option} {name!r} leads out of data.root ({root}). Point data.root at a folder that holds "
            "both, or put a symbolic link to it into data.root."
        )
    return root / name


def read_bytes(path: Path) -> bytes:
    """A file's bytes; a Git LFS pointer is refused by name."""
    try:
        with open_rows(path) as stream:
            raw = stream.read(MAX_LIST + 1)
    except OSError as error:
        raise RowError(str(path), f"the file cannot be read: {error.strerror}.", "Check the path.") from error
    if len(raw) > MAX_LIST:
        problem = f"the file has more than {MAX_LIST:,} bytes, and is read in one piece."
        raise RowError(str(path), problem, "Write its rows as JSON Lines, one a line.")
    if is_lfs_pointer(raw):
        raise lfs_error(str(path), path.name)
    return raw


def decode(raw: bytes, where: str) -> str:
    """Bytes as UTF-8 text, without a byte-order mark."""
    try:
        return raw.decode("utf-8-sig" if raw.startswith(codecs.BOM_UTF8) else "utf-8")
    except UnicodeDecodeError as error:
        raise RowError(where, f"the text is not UTF-8 (byte {error.start}).", "Save the file as UTF-8.") from error


def json_rows(path: Path, found: Findings) -> Iterator[tuple[str, Row]]:
    """The objects of a JSON list, or of JSON Lines: ``(file:line, object)`` each."""
    with open_rows(path) as stream:
        head = stream.read(64)
    for mark, (problem, remedy) in OTHER_FILES.items():
        if head.startswith(mark):
            return found.error(RowError(str(path), problem, remedy))
    is_list = head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"[")
    for where, row in _list_rows(path, found) if is_list else _line_rows(path, found):
        halves = dict(half_characters(row))
        if not halves:
            yield where, row
            continue
        key, half = next(iter(halves.items()))
        problem = f"{ascii(key)[1:-1]} holds half a character ({half}, a lone surrogate), which cannot be encoded."
        found.error(RowError(where, problem, "The text was cut inside a character: write it again whole."))


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


def need(row: Row, key: str, where: str) -> Any:
    """A row's value; without the key, an error that lists the keys there are."""
    if key not in row:
        have = ", ".join(str(k) for k in list(row)[:12]) or "none"
        raise RowError(where, f"the key {key!r} is missing (keys here: {have}).", "Check that this is the right file.")
    return row[key]


def shown(value: Any, most: int = 120) -> str:
    """A value of a row for a message, cut where it is long."""
    text = repr(value)
    return text if len(text) <= most else f"{text[:most]}..."


def text_of(row: Row, key: str, where: str) -> str:
    """A row's value as text; numbers are taken as they are written."""
    value = need(row, key, where)
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise RowError(where, f"{key} must be text, not {shown(value)}.", "Write a text or a number.")
    if isinstance(value, float) and not math.isfinite(value):
        raise RowError(where, f"{key} must be text, not {value!r}, which is no number.", "Write a text or a number.")
    return str(value)


def filled(row: Row, key: str, where: str) -> str:
    """As ``text_of``, and it must not be blank."""
    value = text_of(row, key, where)
    if not value.strip():
        raise RowError(where, f"{key} is empty.", "Fill it in, or remove the row.")
    return value


def unique() -> Callable[[Sample], Sample]:
    """A function that passes samples on and refuses an id that it has seen."""
    seen: dict[str, str] = {}

    def check(sample: Sample) -> Sample:
        first = seen.setdefault(sample.id, sample.source)
        if first != sample.source:
            raise RowError(
                sample.source, f"the id {sample.id!r} is already used in {first}.", "Give each row its own id."
            )
        return sample

    return check


def fingerprint(paths: Iterable[Path]) -> str:
    """One sha256 over the names and contents of the source files, in the order given."""
    digest = hashlib.sha256()
    for path in paths:
        try:
            with open_regular(path) as stream:
                digest.update(f"{path.name} {hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode())
        except OSError as error:
            raise RowError(str(path), f"the file cannot be read: {error.strerror}.", "Check the path.") from error
    return digest.hexdigest()
