"""A client's rows in a folder of its own, with its images: all that a distributed client needs to read.

``client_3/`` holds ``records.json`` (the authors' record format, image paths relative to the folder),
``rows.jsonl`` (the same rows, nothing lost, in the columns of your own data), ``images/`` and ``client.json``
(data set, template, and the sha256 of the rows). No path leads out of the folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fs_fedmllm.atomic import write_atomically
from fs_fedmllm.data.files import json_rows
from fs_fedmllm.data.findings import Findings, RowError
from fs_fedmllm.data.images import ImageFolder, image_sha256
from fs_fedmllm.data.records import write_records
from fs_fedmllm.data.sample import Sample
from fs_fedmllm.data.template import Template

ROWS, RECORDS, HEAD = "rows.jsonl", "records.json", "client.json"
IMAGES = ("link", "copy")
_AGAIN = "Write the client's folder again with data split."


def write_client(
    folder: Path,
    samples: Sequence[Sample],
    template: Template,
    head: Mapping[str, Any],
    *,
    images: str = "link",
    variant: str = "original",
) -> int:
    """Write one client's folder.

    Args:
        folder: made if it is not there.
        samples: the client's rows, as the scenario leaves them: a row that lost its image takes none along.
        template: of the prompts in ``records.json``.
        head: what ``client.json`` says beside the hash, such as the client's id and the manifest's sha256.
        images: ``link`` (hard links; a copy where the file system has none) or ``copy``.
        variant: of the prompts in ``records.json``.

    Returns:
        How many image files the folder holds.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names: dict[str, str] = {}
    for sample in samples:
        if sample.image is not None and sample.image not in names:
            names[sample.image] = _place(sample.image, folder, images)
    for old in (folder / "images").glob("*"):  # of an earlier split: another client's, perhaps
        if f"images/{old.name}" not in names.values():
            old.unlink()
    local = [replace(s, image=names[s.image]) if s.image is not None else s for s in samples]
    write_records(local, folder / RECORDS, template, variant)
    rows = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in map(_row, local))
    write_atomically(folder / ROWS, rows.encode())
    digest = hashlib.sha256(rows.encode()).hexdigest()
    described = {**head, "template": template.name, "rows": len(local), "images": len(names), "rows_sha256": digest}
    write_atomically(folder / HEAD, (json.dumps(described, indent=1, ensure_ascii=False) + "\n").encode())
    return len(names)


def read_client(folder: Path) -> tuple[list[Sample], dict[str, Any]]:
    """The rows of a client's folder, and what ``client.json`` says. Nothing outside the folder is read.

    Raises:
        DataError: a file is missing or was changed, or an image leads out of the folder.
    """
    head = _head(folder)
    path = folder / ROWS
    if not path.is_file():
        raise RowError(str(path), "the file is missing.", _AGAIN)
    digest = image_sha256(str(path))
    if digest != head.get("rows_sha256"):
        raise RowError(str(path), "the rows are not those that client.json was written for.", _AGAIN)
    images = ImageFolder(folder)
    return [_sample(row, where, images) for where, row in json_rows(path, Findings())], head


def _head(folder: Path) -> dict[str, Any]:
    try:
        head = json.loads((folder / HEAD).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RowError(str(folder / HEAD), f"it cannot be read ({error}).", _AGAIN) from error
    if not isinstance(head, dict):
        raise RowError(str(folder / HEAD), "a JSON object is expected.", _AGAIN)
    return head


def _place(image: str, folder: Path, how: str) -> str:
    """Put an image into the folder under the hash of its bytes; the path relative to the folder."""
    try:
        name = f"images/{image_sha256(image)[:24]}{Path(image).suffix.lower()}"
    except OSError as error:
        raise RowError(image, f"the image cannot be read: {error.strerror}.", "Restore it.") from error
    target = folder / name
    if target.exists():
        return name
    target.parent.mkdir(exist_ok=True)
    source = os.path.realpath(image)  # a hard link to a symbolic link would lead out of the folder
    part = target.with_name(f"{target.name}.{os.getpid()}.part")
    try:
        if how == "link":
            os.link(source, part)
        else:
            shutil.copyfile(source, part)
    except OSError:
        if how != "link":
            raise
        shutil.copyfile(source, part)  # another file system, or one without hard links
    os.replace(part, target)
    return name


def _row(sample: Sample) -> dict[str, Any]:
    fields = ("id", "image", "text", "question", "label", "answer", "kind")
    return {**{name: getattr(sample, name) for name in fields}, "keys": dict(sample.keys)}


def _sample(row: Mapping[str, Any], where: str, images: ImageFolder) -> Sample:
    try:
        given = Sample(**row, source=where)
    except TypeError as error:
        raise RowError(where, f"the row has other keys than expected ({error}).", _AGAIN) from error
    return replace(given, image=images.resolve(given.image, where)) if given.image is not None else given


def written_clients(folder: Path) -> Iterator[Path]:
    """The client folders below a folder, by number."""
    found = [path for path in folder.glob("client_*") if path.is_dir() and path.name[7:].isdigit()]
    yield from sorted(found, key=lambda path: int(path.name[7:]))
