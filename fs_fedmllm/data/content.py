"""What rows are, whatever files they came in and wherever those lie: a digest of their values and their images."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable

from fs_fedmllm.data.sample import Sample

#: Bytes that are read of an image at each of three places; smaller files are read whole.
SAMPLE = 16 << 10
_FIELDS = ("id", "text", "question", "answer", "label", "kind")


def rows_sha256(rows: Iterable[Sample]) -> str:
    """sha256 over rows in their order: what they say, and the content of their images, not their paths.

    Of a large image, its size, beginning, middle and end count: starting a run must not read gigabytes. Another
    picture, and the same one saved anew, differ there. It is no proof against somebody who hides a change.
    """
    digest, images = hashlib.sha256(), dict[str, str]()
    for row in rows:
        if row.image is not None and row.image not in images:
            images[row.image] = image_sample_sha256(row.image)
        values = {name: getattr(row, name) for name in _FIELDS} | {"keys": dict(row.keys)}
        values["image"] = images[row.image] if row.image is not None else None
        digest.update(json.dumps(values, sort_keys=True, default=str).encode() + b"\n")
    return digest.hexdigest()


def image_sample_sha256(path: str) -> str:
    """sha256 of an image file's size, beginning, middle and end."""
    try:
        with open(path, "rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            digest = hashlib.sha256(f"{size}|".encode())
            for place in (0, (size - SAMPLE) // 2, size - SAMPLE) if size > 3 * SAMPLE else (0,):
                stream.seek(place)
                digest.update(stream.read(SAMPLE if size > 3 * SAMPLE else size))
    except OSError:  # whoever decodes it says so, with its row
        return "not readable"
    return digest.hexdigest()
