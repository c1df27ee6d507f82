"""The keys that exist, ours and FederatedScope's, and what to say about one that does not."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

from fs_fedmllm.config.common_names import BESIDE, COMMON_NAMES
from fs_fedmllm.config.host_defaults import DEFAULTS
from fs_fedmllm.config.host_keys import host_key
from fs_fedmllm.config.host_reading import leaves
from fs_fedmllm.config.nearest import nearest
from fs_fedmllm.config.schema import Config
from fs_fedmllm.errors import ConfigError
from fs_fedmllm.keys import all_keys, key_types

_KINDS = {path: kind for path, _, kind in all_keys(Config)}


def known_keys() -> list[str]:
    """Every key that a configuration may have, as a dotted path."""
    return list(_KINDS)


@functools.cache
def text_keys() -> frozenset[str]:
    """Keys whose value is a text."""
    return frozenset(path for path, kind in _KINDS.items() if kind is str)


#: Sections of the schema and of FederatedScope; any other is that of somebody else's extension.
KNOWN_SECTIONS = {name.partition(".")[0] for name in (*known_keys(), *DEFAULTS)}
#: Sections that FederatedScope itself does not have.
_OURS = ("fedmllm.", "model.fedmllm.")


def unknown_key(path: str) -> str:
    """What to say of a key that nobody has."""
    # Somebody who forgets a section, or puts a key in the wrong one, gets the key's name right.
    if path in known_keys() or host_key(path) is not None:
        above = path.split(".")[:-1]
        nested = "".join(f"{name}: {{" for name in above) + f"{path.rpartition('.')[2]}: ...{'}' * len(above)}"
        return f"unknown key {path!r}: a name with dots is for the command line. In a file, nest it: {nested}."
    if "." not in path and path.lower() in COMMON_NAMES:
        beside = f" (with {BESIDE[path.lower()]})" if path.lower() in BESIDE else ""
        return f"unknown key {path!r}; did you mean {COMMON_NAMES[path.lower()]!r}{beside}?"
    name = path.rpartition(".")[2]
    elsewhere = [known for known in known_keys() if known.rpartition(".")[2] == name]
    if elsewhere:
        return f"unknown key {path!r}; did you mean {' or '.join(map(repr, elsewhere))}?"
    sections = dict.fromkeys(known.rpartition(".")[0] for known in known_keys() if "." in known)
    return f"unknown key {path!r}{nearest(path, [*known_keys(), *sections])}"


def divide(raw: Mapping[str, Any], where: str, host: bool = False) -> tuple[dict[str, Any], dict[str, Any]]:
    """Tell the schema's keys from those that FederatedScope alone has.

    Args:
        raw: nested mapping, as YAML gives it.
        where: file name for error messages.
        host: leave sections that nobody here knows to FederatedScope and its other extensions.

    Returns:
        The schema's, nested, and FederatedScope's, dotted.

    Raises:
        ConfigError: neither has the key.
    """
    foreign: dict[str, Any] = {}

    def walk(cls: Any, part: Mapping[str, Any], prefix: str) -> dict[str, Any]:
        hints = key_types(cls)
        ours: dict[str, Any] = {}
        for name, value in part.items():
            full = f"{prefix}{name}"
            if name in hints or full.startswith(_OURS):
                inner = hints.get(name)
                deeper = isinstance(value, Mapping) and dataclasses.is_dataclass(inner)
                ours[name] = walk(inner, value, f"{full}.") if deeper else value
                continue
            for path, item in leaves({name: value}, prefix):
                if host_key(path) is not None:
                    # A section written down without anything below it is None.
                    if item is not None or path in DEFAULTS:
                        foreign[path] = item
                elif not host or path.partition(".")[0] in KNOWN_SECTIONS:
                    section = any(known.startswith(f"{full}.") for known in DEFAULTS)
                    raise ConfigError(f"{where}: {unknown_key(path if section else full)}")
        return ours

    return walk(Config, raw, ""), foreign
