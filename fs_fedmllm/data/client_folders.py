"""A client's rows in a folder of its own, with its images: all that a distributed client needs to read.

``client_3/`` holds ``records.json`` (the authors' record format, image paths relative to the folder),
``rows.jsonl`` (the same rows, nothing lost, in the columns of your own data), ``images/``, ``client.json`` (data set,
template, and the sha256 of the rows) and the template, where it is one of your own. ``server/`` holds the rows that
the server evaluates on, in ``val.jsonl`` and ``test.jsonl``, and ``server.json``. No path leads out of a folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fs_fedmllm.data.findings import Findings, RowError
from fs_fedmllm.data.image_paths import ImageFolder
from fs_fedmllm.data.images import image_sha256
from fs_fedmllm.data.json_rows import json_rows
from fs_fedmllm.data.records import write_records
from fs_fedmllm.data.sample import Sample
from fs_fedmllm.data.template import Template
from fs_fedmllm.files.atomic import beside, private_folder, write_atomically
from fs_fedmllm.files.untrusted import read_object

ROWS, RECORDS, HEAD = "rows.jsonl", "records.json", "client.json"
SERVER, SERVER_HEAD = "server", "server.json"
#: Splits of the server's folder.
EVALUATED = ("val", "test")
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
    local, names = _place_images(folder, samples, images)
    write_records(local, folder / RECORDS, template, variant)
    digest = _write_rows(folder / ROWS, local)
    described = {**head, "template": template.name, "rows": len(local), "images": len(names), "rows_sha256": digest}
    _write_head(folder / HEAD, described)
    return len(names)


def write_server(
    folder: Path,
    splits: Mapping[str, Sequence[Sample]],
    template: Template,
    head: Mapping[str, Any],
    *,
    images: str = "link",
) -> None:
    """Write the server's folder: the rows that it evaluates on.

    Args:
        folder: made if it is not there.
        splits: ``val`` and ``test`` rows.
        template: of the prompts.
        head: what ``server.json`` says beside the hashes.
        images: as for :func:`write_client`.
    """
    everything = [sample for name in EVALUATED for sample in splits[name]]
    local, names = _place_images(folder, everything, images)
    digests = {}
    for name in EVALUATED:
        part, local = local[: len(splits[name])], local[len(splits[name]) :]
        digests[name] = _write_rows(folder / f"{name}.jsonl", part)
    described = {**head, "template": template.name, "images": len(names), "rows_sha256": digests}
    _write_head(folder / SERVER_HEAD, described)


def read_server(folder: Path) -> tuple[dict[str, list[Sample]], dict[str, Any]]:
    """The rows of the server's folder by split, and what ``server.json`` says. Nothing outside it is read.

    Raises:
        DataError: as :func:`read_client`.
    """
    head = _head(folder / SERVER_HEAD)
    given = head.get("rows_sha256")
    digests = given if isinstance(given, dict) else {}
    return {name: _read_rows(folder, f"{name}.jsonl", digests.get(name), SERVER_HEAD) for name in EVALUATED}, head


def read_client(folder: Path) -> tuple[list[Sample], dict[str, Any]]:
    """The rows of a client's folder, and what ``client.json`` says. Nothing outside the folder is read.

    Raises:
        DataError: a file is missing or was changed, or an image leads out of the folder.
    """
    head = _head(folder / HEAD)
    return _read_rows(folder, ROWS, head.get("rows_sha256"), HEAD), head


def head_of(folder: Path, name: str) -> dict[str, Any]:
    """What ``client.json`` or ``server.json`` says.

    Raises:
        DataError: it cannot be read.
    """
    return _head(folder / name)


def place_template(folder: Path, template: str) -> None:
    """Put a template of the user's own beside a site's rows; one that ships is found by its name.

    Args:
        folder: of a client or of the server.
        template: a name, or the path of a .yaml.
    """
    source = Path(template)
    if source.suffix in (".yaml", ".yml"):
        write_atomically(folder / f"{source.stem}.yaml", source.read_bytes(), private=True)
    else:  # of an earlier split, perhaps
        (folder / f"{template}.yaml").unlink(missing_ok=True)


def template_of(folder: Path, head: Mapping[str, Any]) -> str:
    """The template that a site's folder was written for: the path of the one beside its rows, or a name.

    Args:
        folder: of a client or of the server.
        head: what ``client.json`` or ``server.json`` says.
    """
    name = Path(str(head.get("template"))).name
    return str(folder / f"{name}.yaml") if (folder / f"{name}.yaml").is_file() else name


def _place_images(folder: Path, samples: Sequence[Sample], how: str) -> tuple[list[Sample], dict[str, str]]:
    """The rows with paths relative to the folder, and the path of each image; what is not theirs is removed."""
    private_folder(folder)
    folder.chmod(0o700)  # an earlier split's, perhaps; a hard link to an image keeps the image's own mode
    names: dict[str, str] = {}
    for sample in samples:
        if sample.image is not None and sample.image not in names:
            names[sample.image] = _place(sample.image, folder, how)
    for old in (folder / "images").glob("*"):  # of an earlier split: another client's, perhaps
        if f"images/{old.name}" not in names.values():
            old.unlink()
    return [replace(s, image=names[s.image]) if s.image is not None else s for s in samples], names


def _write_head(path: Path, head: Mapping[str, Any]) -> None:
    write_atomically(path, (json.dumps(head, indent=1, ensure_ascii=False) + "\n").encode(), private=True)


def _write_rows(path: Path, samples: Sequence[Sample]) -> str:
    rows = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in map(_row, samples))
    write_atomically(path, rows.encode(), private=True)
    return hashlib.sha256(rows.encode()).hexdigest()


def _read_rows(folder: Path, name: str, digest: Any, head: str) -> list[Sample]:
    path = folder / name
    if not path.is_file():
        raise RowError(str(path), "the file is missing.", _AGAIN)
    if image_sha256(str(path)) != digest:
        raise RowError(str(path), f"the rows are not those that {head} was written for.", _AGAIN)
    images = ImageFolder(folder)
    return [_sample(row, where, images) for where, row in json_rows(path, Findings())]


def _head(path: Path) -> dict[str, Any]:
    try:
        return read_object(path)
    except (OSError, ValueError) as error:
        raise RowError(str(path), f"it cannot be read ({error}).", _AGAIN) from error


def _place(image: str, folder: Path, how: str) -> str:
    """Put an image into the folder under the hash of its bytes; the path relative to the folder."""
    try:
        name = f"images/{image_sha256(image)[:24]}{Path(image).suffix.lower()}"
    except OSError as error:
        raise RowError(image, f"the image cannot be read: {error.strerror}.", "Restore it.") from error
    target = folder / name
    if target.exists():
        return name
    private_folder(target.parent)
    source = os.path.realpath(image)  # a hard link to a symbolic link would lead out of the folder
    if how == "link":
        with contextlib.suppress(OSError):  # another file system, or one without hard links
            os.link(source, target)
            return name
    with beside(target, private=True) as part:
        shutil.copyfile(source, part)
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
