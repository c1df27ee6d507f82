"""From a YAML file and overrides to a checked configuration; unknown keys are errors."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from fs_fedmllm.config.checks import check
from fs_fedmllm.config.nearest import nearest
from fs_fedmllm.config.schema import FOREIGN_SECTIONS, Config
from fs_fedmllm.errors import ConfigError
from fs_fedmllm.safe_yaml import parse_yaml, yaml_fault
from fs_fedmllm.untrusted import WRITTEN, read_regular


def _all_keys(cls: Any, prefix: str = "") -> list[str]:
    keys: list[str] = []
    for name, kind in typing.get_type_hints(cls).items():
        path = f"{prefix}{name}"
        keys += _all_keys(kind, path + ".") if dataclasses.is_dataclass(kind) else [path]
    return keys


def known_keys() -> list[str]:
    """Every key that a configuration may have, as a dotted path."""
    return _all_keys(Config)


#: Whole numbers that YAML gives as text, such as those of the command line in quotes.
_WHOLE = re.compile(r"-?[0-9]{1,18}")
_KINDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    list: "a list",
    dict: "a mapping",
}


def _coerce(value: Any, kind: Any, path: str, where: str) -> Any:
    """Bring a YAML value to its field's type; ``2e-5`` without a dot is text in YAML and is accepted as a number."""
    if kind is bool:
        if isinstance(value, bool):
            return value
        if isinstance(value, str) and value.lower() in ("true", "false"):
            return value.lower() == "true"
    elif kind is int:
        if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63:
            return value
        if isinstance(value, float) and value.is_integer() and abs(value) < 2**63:
            return int(value)
        if isinstance(value, str) and _WHOLE.fullmatch(value):
            return int(value)
    elif kind is float:
        if isinstance(value, int | float | str) and not isinstance(value, bool):
            with contextlib.suppress(ValueError, OverflowError):
                return float(value)
    elif kind is str:
        if isinstance(value, str):
            return value
        if value is None:
            return ""
        if isinstance(value, int | float):
            return str(value)
    elif kind is list:
        if isinstance(value, list | tuple):
            return list(value)
    elif kind is dict and isinstance(value, Mapping):
        return dict(value)
    raise ConfigError(f"{where}: {path} must be {_KINDS[kind]}, got {value!r}.")


#: Sections that FederatedScope itself does not have.
_OURS = ("fedmllm.", "model.fedmllm.")


def unknown_key(path: str) -> str:
    """What to say of a key that is not ours."""
    if path.partition(".")[0] == "aggregator":
        return (
            f"unknown key {path!r}: FederatedScope's aggregators do not know adapters. Set fedmllm.aggregation.rule "
            "(krum, multi_krum, median, trimmed_mean, norm_bounded) and fedmllm.aggregation.byzantine instead."
        )
    if path.partition(".")[0] in FOREIGN_SECTIONS:
        return (
            f"unknown key {path!r}: a section of FederatedScope that the embedded engine does not honour. Remove it, "
            "or run in FederatedScope (--engine federatedscope)."
        )
    # Somebody who forgets a section, or puts a key in the wrong one, gets the key's name right.
    name = path.rpartition(".")[2]
    elsewhere = [known for known in known_keys() if known.rpartition(".")[2] == name]
    if elsewhere:
        return f"unknown key {path!r}; did you mean {' or '.join(map(repr, elsewhere))}?"
    sections = dict.fromkeys(known.rpartition(".")[0] for known in known_keys() if "." in known)
    return f"unknown key {path!r}{nearest(path, [*known_keys(), *sections])}"


def _build(cls: Any, raw: Any, where: str, path: str = "", host: bool = False) -> Any:
    if not isinstance(raw, Mapping):
        raise ConfigError(f"{where}: {path or 'the file'} must be a mapping of keys to values, got {raw!r}.")
    hints = typing.get_type_hints(cls)
    values: dict[str, Any] = {}
    for name, value in raw.items():
        full = f"{path}.{name}" if path else str(name)
        if name not in hints:
            if host and not full.startswith(_OURS):
                continue
            raise ConfigError(f"{where}: {unknown_key(full)}")
        kind = hints[name]
        if dataclasses.is_dataclass(kind):
            values[name] = _build(kind, value if value is not None else {}, where, full, host)
            continue
        value = _coerce(value, kind, full, where)
        metadata = next(f.metadata for f in dataclasses.fields(cls) if f.name == name)
        choices = metadata.get("choices", ())
        if choices and isinstance(value, str):
            if full == "federate.method":
                value = value.lower()
            if value not in choices and not (value == "" and full == "data.splitter"):
                raise ConfigError(
                    f"{where}: {full} is {value!r}, which is not one of {', '.join(choices)}{nearest(value, choices)}"
                )
        values[name] = value
    return cls(**values)


def from_mapping(raw: Mapping[str, Any], where: str = "configuration", *, host: bool = False) -> Config:
    """Build and check a configuration.

    Args:
        raw: nested mapping, as YAML gives it.
        where: file name for error messages.
        host: leave keys of FederatedScope's that we do not have to FederatedScope.

    Raises:
        ConfigError: an unknown key (with the nearest known one), a wrong type, or an impossible combination.
    """
    config: Config = _build(Config, raw, where, host=host)
    check(config, where)
    return config


def parse_override(text: str) -> Any:
    """The value of a word on the command line, as YAML reads it."""
    try:
        return parse_yaml(text)
    except yaml.YAMLError:
        return text


def apply_overrides(raw: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Apply ``key value key value ...``, FederatedScope's command-line form, to a nested mapping.

    Raises:
        ConfigError: an odd number of words, or a key through a value that is not a section.
    """
    if len(overrides) % 2:
        raise ConfigError(
            f"Overrides come in pairs, key then value; {overrides[-1]!r} has no value. Example: seed 7 eval.freq 5"
        )
    merged: dict[str, Any] = {k: v for k, v in raw.items()}
    for name, text in zip(overrides[::2], overrides[1::2], strict=True):
        node = merged
        *parents, last = name.split(".")
        for parent in parents:
            child = node.get(parent)
            if child is not None and not isinstance(child, Mapping):
                raise ConfigError(f"Override {name!r}: {parent!r} is a value, not a section.")
            node[parent] = dict(child or {})
            node = node[parent]
        node[last] = parse_override(text)
    return merged


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read a configuration file into a nested mapping.

    Raises:
        ConfigError: the file is missing, not readable or not YAML (with the line).
    """
    try:
        text = read_regular(path, WRITTEN).decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"Cannot read the configuration {str(path)!r}: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"The configuration {str(path)!r} is not UTF-8 text.") from error
    try:
        raw = parse_yaml(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML{yaml_fault(error)}.") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{path} must be a mapping of keys to values.")
    return raw


def load(path: str | Path, overrides: Sequence[str] = (), *, host: bool = False) -> Config:
    """Read a file, apply overrides, check, and return the configuration; arguments as in :func:`from_mapping`."""
    return from_mapping(apply_overrides(read_yaml(path), overrides), str(path), host=host)


def to_mapping(config: Any) -> dict[str, Any]:
    """The configuration as a nested mapping of plain values, defaults included."""
    return dataclasses.asdict(config)
