"""JSON files that carry a digest of themselves, so that a value that was changed is noticed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

KEY = "digest"


def json_sha256(content: Mapping[str, Any]) -> str:
    """sha256 of a mapping as JSON has it, whatever the order of its names."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def seal(content: Mapping[str, Any]) -> str:
    """:func:`json_sha256`, for which a digest in the mapping does not count."""
    return json_sha256({name: value for name, value in content.items() if name != KEY})


def sealed(content: Mapping[str, Any]) -> bytes:
    """The mapping as JSON, with its digest."""
    read_back = json.loads(json.dumps(content))  # names are text then
    return json.dumps({**read_back, KEY: seal(read_back)}).encode()


def check_seal(content: Mapping[str, Any], name: str) -> None:
    """Refuse content that was changed after it was sealed; releases may seal in other ways, so compare versions first.

    Raises:
        ValueError: its digest is missing or another.
    """
    if content.get(KEY) != seal(content):
        raise ValueError(f"{name} was changed: the digest in it is not that of its content")
