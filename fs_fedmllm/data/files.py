"""Annotation files: where they are, their bytes, their fingerprint."""

from __future__ import annotations

import codecs
import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from fs_fedmllm.data.findings import RowError
from fs_fedmllm.data.images import is_lfs_pointer, lfs_error
from fs_fedmllm.data.packed import open_rows
from fs_fedmllm.errors import ConfigError
from fs_fedmllm.files.untrusted import open_regular

#: How many folders deep an archive may have been unpacked.
DEPTH = 4
#: Folders that hold only images; looking for an annotation file in them would cost time for nothing.
IMAGE_FOLDERS = frozenset({"img", "imgs", "images", "data_image", "VQA_RAD Image Folder"})

#: Bytes of a JSON list, which is read in one piece, and of one row of JSON Lines.
MAX_LIST, MAX_ROW = 1 << 30, 64 << 20


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
