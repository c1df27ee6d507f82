"""Every key with its type, default and meaning, for people."""

from __future__ import annotations

import dataclasses
from typing import Any

from fs_fedmllm.config.schema import Config
from fs_fedmllm.keys import ANY, all_keys


def describe() -> list[tuple[str, str, str, str]]:
    """The reference: (key, type, default, meaning) of every key, for the documentation and ``config --help``."""
    rows: list[tuple[str, str, str, str]] = []
    for path, f, kind in all_keys(Config):
        made: Any = f.default_factory
        default = made() if f.default is dataclasses.MISSING else f.default
        doc = str(f.metadata["doc"])
        if f.metadata["choices"]:
            doc += f" One of: {', '.join(f.metadata['choices'])}."
        if f.metadata["valid"] != ANY:
            doc += f" Must be {f.metadata['valid']}."
        if f.metadata["unit"]:
            doc += f" ({f.metadata['unit']})"
        rows.append((path, kind.__name__, repr(default), doc))
    return rows


def choices_of(name: str) -> list[str]:
    """The texts that a key may have, as a command line writes them; empty where it may have any.

    Args:
        name: dotted key; one that there is not may have none.
    """
    for path, f, kind in all_keys(Config):
        if path == name:
            return list(f.metadata["choices"] or (("True", "False") if kind is bool else ()))
    return []
