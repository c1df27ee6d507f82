"""Folders of images as Hugging Face's ``imagefolder`` has them: a folder for each class, or a file that names images.

``train/``, ``val/`` (``validation/``, ``valid/``, ``dev/``) and ``test/``, or one level without them, each hold either
a folder for every label with its images, or ``metadata.csv``, ``.jsonl`` or ``.parquet`` whose column ``file_name`` is
a path from there.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fs_fedmllm.data.findings import Findings, RowError
from fs_fedmllm.data.row_values import Row, Rows

#: Endings of images that are looked for in class folders, in any case.
SUFFIXES = frozenset(
    (
        *(".bmp", ".gif", ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".ppm", ".pgm", ".pbm", ".pnm", ".tif", ".tiff"),
        *(".webp", ".dcm", ".dicom", ".heic", ".heif"),
    )
)
#: The file that names images, and its column of their paths.
METADATA, FILE_NAME = "metadata", "file_name"


def class_folders(folder: Path) -> list[Path]:
    """The folders below that hold an image, by their names; hidden ones do not count."""
    below = sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    return [path for path in below if holds_images(path)]


def holds_images(folder: Path) -> bool:
    """Whether a file in a folder is called as images are."""
    return any(_pictured(entry.name) for entry in folder.iterdir())


def _pictured(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in SUFFIXES and not name.startswith(".")


def class_rows(folder: Path, found: Findings) -> Iterator[tuple[str, Row]]:
    """A row for each image of the class folders: its path below the folder as id, and its folder's name as label.

    Args:
        folder: of the class folders.
        found: told of files that are not read.

    Raises:
        DataError: a class folder holds a folder.
    """
    others: list[str] = []
    number = 0
    for label in class_folders(folder):
        for entry in sorted(label.iterdir()):
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                problem = f"the folder of the label {label.name!r} holds a folder."
                raise RowError(str(entry), problem, "Put the images of a label into its own folder, without another.")
            if _pictured(entry.name):
                row = {"id": f"{label.name}/{entry.name}", "image": str(entry.absolute()), "label": label.name}
                number += 1
                yield f"{folder}:{number}", row
            else:
                others.append(f"{label.name}/{entry.name}")
    if others:
        count = "1 file is" if len(others) == 1 else f"{len(others):,} files are"
        found.warn(str(folder), f"{count} no image by name, and not read, such as {others[0]}.")


def named_rows(rows: Rows, folder: Path, found: Findings) -> Iterator[tuple[str, Row]]:
    """The rows of ``metadata`` whose ``file_name`` leads from the data root; images that none names are counted."""
    named: set[str] = set()
    for where, row in rows:
        made = _named_row(row, folder)
        name = str(made.get(FILE_NAME))
        named.update((os.path.normpath(name), os.path.normpath(name.replace("\\", "/"))))
        yield where, made
    images = (str(path) for path in folder.absolute().rglob("*") if _pictured(path.name))
    others = sorted(image for image in images if image not in named)
    if others:
        count = "1 image is" if len(others) == 1 else f"{len(others):,} images are"
        found.warn(str(folder), f"{count} not named by {METADATA}, and not read, such as {others[0]}.")


def _named_row(row: Row, folder: Path) -> Row:
    """A row of ``metadata`` whose ``file_name`` leads from the data root, not from the folder that the file is in."""
    name: Any = row.get(FILE_NAME)
    if not isinstance(name, str) or not name.strip() or "://" in name or name[:5].lower() == "data:":
        return row
    return {**row, FILE_NAME: os.path.join(folder.absolute(), name)}


def classes_sha256(folder: Path) -> str:
    """sha256 of the names and sizes of the images in class folders; what they show is looked at with the rows."""
    digest = hashlib.sha256()
    for label in class_folders(folder):
        for entry in sorted(label.iterdir()):
            if _pictured(entry.name) and entry.is_file():
                digest.update(f"{label.name}/{entry.name} {entry.stat().st_size}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
