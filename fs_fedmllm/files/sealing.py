"""JSON files that carry a digest of themselves, so that a value that was changed is noticed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fs_fedmllm.files.untrusted import read_json

KEY = "digest"


def seal(content: Mapping[str, Any]) -> str:
    """sha256 of a mapping as JSON gives it back, whatever the order of its names; a digest in it does not count."""
    plain = {name: value for name, value in content.items() if name != KEY}
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def sealed(content: Mapping[str, Any]) -> bytes:
    """The mapping as JSON, with its digest."""
    read_back = json.loads(json.dumps(content))  # names are text then
    return json.dumps({**read_back, KEY: seal(read_back)}).encode()


def opened(path: Path) -> dict[str, Any]:
    """A sealed file, not checked yet: other versions may seal in other ways, so their number comes first.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no JSON, or no object.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} is no JSON object")
    return content


def check_seal(content: Mapping[str, Any], name: str) -> None:
    """Refuse content that was changed after it was sealed.

    Raises:
        ValueError: its digest is missing or another.
    """
    if content.get(KEY) != seal(content):
        raise ValueError(f"{name} was changed: the digest in it is not that of its content")
