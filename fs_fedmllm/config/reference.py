"""Every key with its type, default and meaning, for people."""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any

from fs_fedmllm.config.schema import Config
from fs_fedmllm.keys import ANY, key_name, key_types


def describe() -> list[tuple[str, str, str, str]]:
    """The reference: (key, type, default, meaning) of every key, for the documentation and ``config --help``."""
    rows: list[tuple[str, str, str, str]] = []

    def walk(cls: Any, prefix: str) -> None:
        hints = typing.get_type_hints(cls)
        for f in dataclasses.fields(cls):
            kind = hints[f.name]
            if dataclasses.is_dataclass(kind):
                walk(kind, f"{prefix}{key_name(f.name)}.")
                continue
            made: Any = f.default_factory
            default = made() if f.default is dataclasses.MISSING else f.default
            doc = str(f.metadata["doc"])
            if f.metadata["choices"]:
                doc += f" One of: {', '.join(f.metadata['choices'])}."
            if f.metadata["valid"] != ANY:
                doc += f" Must be {f.metadata['valid']}."
            if f.metadata["unit"]:
                doc += f" ({f.metadata['unit']})"
            name = kind.__name__ if not isinstance(kind, types.GenericAlias) else str(kind)
            rows.append((f"{prefix}{key_name(f.name)}", name, repr(default), doc))

    walk(Config, "")
    return rows


def choices_of(name: str) -> list[str]:
    """The texts that a key may have, as a command line writes them; empty where it may have any.

    Args:
        name: dotted key; one that there is not may have none.
    """
    cls: Any = Config
    *sections, last = name.split(".")
    for section in sections:
        cls = key_types(cls).get(section)
        if not dataclasses.is_dataclass(cls):
            return []
    found = next((f for f in dataclasses.fields(cls) if key_name(f.name) == last), None)
    if found is None:
        return []
    return list(found.metadata.get("choices") or (("True", "False") if key_types(cls)[last] is bool else ()))
