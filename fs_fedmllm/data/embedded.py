"""A row's image as its file has it: a path, or the bytes themselves, alone or in a mapping (Hugging Face)."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

from fs_fedmllm.data.columns import NOTHING, missing, one_image
from fs_fedmllm.data.findings import RowError
from fs_fedmllm.data.image_paths import ImageFolder
from fs_fedmllm.data.registry import cache_dir
from fs_fedmllm.files.atomic import write_atomically
from fs_fedmllm.quoting import yaml_list


def cached_images() -> str:
    """The folder that embedded images are kept in where nobody names one."""
    return str(cache_dir() / "images")


def image_path(value: Any, where: str, images: ImageFolder, store: str) -> tuple[str | None, bool]:
    """The path of a row's image, None where it has none, and whether its bytes stood in the row.

    Args:
        value: as the file has it.
        where: ``file:line``.
        images: the folder that named images lie in.
        store: folder to keep embedded images in, each once.

    Raises:
        DataError: it is no image, or one that may not be read.
    """
    value = one_image(value, where)
    if isinstance(value, dict):
        if not {"bytes", "path"} & value.keys():
            held = ", ".join(map(str, value)) or "nothing"
            remedy = "Give a path, or a mapping of bytes and path."
            raise RowError(where, f"the image is a mapping of {held}.", remedy)
        data, value = value.get("bytes"), value.get("path")
        if data and not isinstance(data, bytes):
            remedy = "Write the images as files, and give their paths."
            raise RowError(where, f"the image's bytes are {type(data).__name__}, not bytes.", remedy)
        value = data or value
    if isinstance(value, bytes) and value:
        return _kept(value, store), True
    if isinstance(value, str) and value.strip().lower() in NOTHING:
        absent = yaml_list([value.strip()])
        remedy = f"Leave it empty where there is no image, or say fedmllm.data: {{absent: {absent}}}."
        raise RowError(where, f"the image path is {value!r}.", remedy)
    return None if missing(value) or value == b"" else images.resolve(value, where), False


def _kept(data: bytes, store: str) -> str:
    """The path of an image that a file holds as bytes; they are written to ``store`` once, named by their hash."""
    path = os.path.join(store, hashlib.sha256(data).hexdigest()[:32])
    if not os.path.exists(path):
        write_atomically(Path(path), data, durable=False, private=True)
    return path
