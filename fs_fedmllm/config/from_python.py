"""Values as Python gives them, made such as YAML has: numbers of numpy, paths, members of enumerations, sections."""

from __future__ import annotations

import datetime
import enum
import os
from collections.abc import Iterator, Mapping
from typing import Any

from fs_fedmllm.config.host_defaults import DEFAULTS
from fs_fedmllm.config.known_keys import known_keys
from fs_fedmllm.errors import ConfigError

#: Deeper than any configuration; a mapping that holds itself ends here.
_DEEPEST = 40


def plain(value: Any, name: str, depth: int = 0) -> Any:
    """A value that can be written into a configuration file, and is the same when it is read back.

    Args:
        value: whatever a caller has.
        name: of the key, for messages.
        depth: of the value in what was given.

    Raises:
        ConfigError: nothing in a configuration file is such a value.
    """
    if depth > _DEEPEST:
        raise ConfigError(f"{name} is nested deeper than a configuration is; does it hold itself?")
    if value is None or isinstance(value, bool | datetime.date):
        return value
    if isinstance(value, enum.Enum):
        return plain(value.value, name, depth + 1)
    for kind in (int, float, str):
        if isinstance(value, kind):
            return kind(value)
    if isinstance(value, Mapping):
        return {_key(key): plain(inner, f"{name}.{key}", depth + 1) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner, name, depth + 1) for inner in value]
    if isinstance(value, os.PathLike) and isinstance(os.fspath(value), str):
        return os.fspath(value)
    if getattr(value, "shape", None) == () and hasattr(value, "item"):  # a scalar of numpy, or a tensor of one number
        return plain(value.item(), name, depth + 1)
    raise ConfigError(
        f"{name} is {str(value)[:80]!r}, a {type(value).__module__}.{type(value).__qualname__}, which a configuration "
        "cannot hold: give a number, a text, true or false, a list or a mapping."
    )


def _key(key: Any) -> Any:
    return str(key) if isinstance(key, str) else key


def given(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of an override; a section's other keys stay as they are.

    Args:
        name: the key, dotted.
        value: for it, plain.

    Raises:
        ConfigError: a section, and no mapping of its keys.
    """
    if not any(key.startswith(f"{name}.") for key in (*known_keys(), *DEFAULTS)):
        yield name, value
        return
    if not isinstance(value, Mapping):
        raise ConfigError(f"{name} is a section, and {value!r} is given. Give a mapping of its keys, or one of them.")
    for key, inner in value.items():
        yield from given(f"{name}.{key}", inner)
