"""HEIC and HEIF files, as phones write them; turned upright and brought to 8 bits by pillow-heif."""

from __future__ import annotations

import os
from typing import Any, BinaryIO

from fs_fedmllm.data.pixels import UnusablePixels
from fs_fedmllm.extras import require_extra

#: Bytes of a file, which is read whole.
MAX_FILE = 1 << 30
_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1")


def is_heif(head: bytes) -> bool:
    """Whether a file that begins so is HEIF with pictures that are coded as HEVC."""
    return head[4:8] == b"ftyp" and head[8:12] in _BRANDS and b"avif" not in head[16:64]


def open_heif(stream: BinaryIO, path: str) -> Any:
    """The image as Pillow has it, its pixels not yet decoded.

    Raises:
        ConfigError: pillow-heif is not installed.
        UnusablePixels: the file is larger than ``MAX_FILE``.
        Exception: whatever the parser raises on a damaged file.
    """
    require_extra("heif", f"{path} is a HEIC file, and reading it")
    from pillow_heif import HeifImageFile

    if os.fstat(stream.fileno()).st_size > MAX_FILE:
        raise UnusablePixels(f"it has more than {MAX_FILE:,} bytes", "Save it as JPEG.")
    return HeifImageFile(stream)
