"""From a YAML file and overrides to a checked configuration; unknown keys are errors."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from fs_fedmllm.config.building import build, with_outside_parameters
from fs_fedmllm.config.checks import check, numbers
from fs_fedmllm.config.clients import PER_CLIENT, SAME, client_id, client_words
from fs_fedmllm.config.host_keys import host_key
from fs_fedmllm.config.host_reading import METHOD_PREFIX, HostReader, host_values, leaves, nested, put
from fs_fedmllm.config.known_keys import KNOWN_SECTIONS, divide, known_keys, unknown_key
from fs_fedmllm.config.overrides import apply_overrides
from fs_fedmllm.config.places import placed
from fs_fedmllm.config.schema import Config
from fs_fedmllm.errors import ConfigError
from fs_fedmllm.files.safe_yaml import parse_yaml, yaml_fault
from fs_fedmllm.files.untrusted import WRITTEN, read_regular
from fs_fedmllm.keys import key_name


def _typed(own: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A client's own values as the schema has them."""
    made = build(Config, own, where)
    for path, value, valid in numbers(made):
        if not valid.holds(value) and path in PER_CLIENT:
            raise ConfigError(f"{where}.{path} is {value!r}; it must be {valid}.")
    return nested((path, functools.reduce(getattr, path.split("."), made)) for path, _ in leaves(own))


def read_clients(raw: Any, where: str) -> dict[str, dict[str, Any]]:
    """FederatedScope's ``--client_cfg``, as ``fedmllm.clients`` has it: checked and in one form.

    Args:
        raw: ``client_<id>`` -> nested keys, as FederatedScope's file has them.
        where: file name for error messages.

    Returns:
        ``client_<id>`` -> nested keys of the schema, by id.

    Raises:
        ConfigError: a name that is no client's, or a key that clients cannot have for themselves.
    """
    if not isinstance(raw, Mapping):
        raise ConfigError(f"{where} must be a mapping of client_1, client_2, ... to their keys, got {raw!r}.")
    made: dict[str, dict[str, Any]] = {}
    for name, section in raw.items():
        if not client_id(name):
            raise ConfigError(f"{where}: {name!r} is not a client; write client_1, client_2, ... with their keys.")
        if section is None:
            continue
        if not isinstance(section, Mapping):
            raise ConfigError(f"{where}: {name} must be a mapping of keys to values, got {section!r}.")
        own: dict[str, Any] = {}
        given: dict[str, tuple[str, Any]] = {}
        for path, value in leaves(section):
            key = SAME.get(path, path)
            if key not in PER_CLIENT:
                if path not in known_keys() and host_key(path) is None:
                    raise ConfigError(f"{where}: {name}: {unknown_key(path)}")
                raise ConfigError(
                    f"{where}: {name}.{path} is {value!r}, but clients differ in {', '.join(PER_CLIENT[:-1])} and "
                    f"{PER_CLIENT[-1]} only. Remove it, or set {path} for all clients in the configuration."
                )
            if key in given and given[key][1] != value:
                raise ConfigError(
                    f"{where}: {name}.{path} gives {value!r} and {name}.{given[key][0]} {given[key][1]!r}, and both "
                    f"set {key}. Leave one of them out."
                )
            given[key] = (path, value)
            put(own, key, value)
        if own:
            made[str(name)] = _typed(own, f"{where}: {name}")
    return {name: made[name] for name in sorted(made, key=client_id)}


def given_mapping(
    path: str | Path, overrides: Sequence[str] = (), client_cfg: str | Path | None = None
) -> dict[str, Any]:
    """What a file, the command line and a file of clients' own settings give, nested.

    Args:
        path: the configuration.
        overrides: ``key=value`` or ``key value``; ``client_3.train.optimizer.lr=0.1`` is for one client.
        client_cfg: FederatedScope's file of clients' own settings.

    Raises:
        ConfigError: one of them cannot be read, or clients' own settings are given twice.
    """
    everyone, single = client_words(overrides)
    raw = apply_overrides(placed(read_yaml(path), path, everyone[::2]), everyone)
    if client_cfg is None and not single:
        return raw
    clients: Any = read_yaml(client_cfg) if client_cfg is not None else {}
    for name, words in single.items():
        clients = {**clients, name: apply_overrides(clients.get(name) or {}, words)}
    section = raw.get("fedmllm")
    if isinstance(section, Mapping) and section.get("clients"):
        raise ConfigError(
            f"{path}: fedmllm.clients and {client_cfg or 'the command line'} both hold clients' own settings. Leave "
            "one of them out."
        )
    put(raw, "fedmllm.clients", read_clients(clients, str(client_cfg or "the command line")))
    return raw


def from_mapping(raw: Mapping[str, Any], where: str = "configuration", *, host: bool = False) -> Config:
    """Build and check a configuration.

    Args:
        raw: nested mapping, as YAML gives it.
        where: file name for error messages.
        host: FederatedScope runs it, so that what only FederatedScope does is left to it.

    Raises:
        ConfigError: an unknown key (with the nearest known one), a wrong type, an impossible combination, or a key of
            FederatedScope's that asks for what our runs do not have (with what to use instead).
    """
    if not isinstance(raw, Mapping):
        raise ConfigError(f"{where}: the file must be a mapping of keys to values, got {raw!r}.")
    ours, foreign = divide(raw, where, host)
    HostReader(ours, where, host).take(foreign)
    federate = ours.get("federate")
    if isinstance(federate, Mapping) and isinstance(federate.get("method"), str):
        method = federate["method"].lower().removeprefix(METHOD_PREFIX)
        ours["federate"] = {**federate, "method": method}
    section = ours.get("fedmllm")
    if isinstance(section, Mapping):
        section = dict(section)
        if isinstance(section.get("switches"), Mapping):
            # FederatedScope's tree holds every switch, empty where the profile decides, and is written out like that.
            section["switches"] = {name: value for name, value in section["switches"].items() if value != ""}
        if section.get("clients"):
            section["clients"] = read_clients(section["clients"], f"{where}: fedmllm.clients")
        ours["fedmllm"] = section
    config: Config = build(Config, ours, where)
    config = with_outside_parameters(config, where)
    check(config, where)
    return config


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
        raise ConfigError(f"The configuration {str(path)!r} is not UTF-8 text. Save it as UTF-8.") from error
    try:
        raw = parse_yaml(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML{yaml_fault(error)}.") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{path} must be a mapping of keys to values.")
    return raw


def load(
    path: str | Path, overrides: Sequence[str] = (), *, host: bool = False, client_cfg: str | Path | None = None
) -> Config:
    """Read a file, apply overrides, check, and return the configuration.

    Arguments as in :func:`given_mapping` and :func:`from_mapping`.
    """
    return from_mapping(given_mapping(path, overrides, client_cfg), str(path), host=host)


def host_mapping(config: Config, raw: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration as FederatedScope is to read it: every value of the run, and what was given for it alone."""
    merged = to_mapping(config)
    merged |= {name: section for name, section in raw.items() if name not in KNOWN_SECTIONS}
    _, foreign = divide(raw, "configuration", host=True)
    for path, value in [*foreign.items(), *host_values(config)]:
        if path not in ("expname_tag", "data.batch_size"):  # they are in expname and dataloader.batch_size already
            put(merged, path, value)
    return merged


def to_mapping(config: Any) -> dict[str, Any]:
    """The configuration as a nested mapping of plain values, defaults included."""
    return dataclasses.asdict(config, dict_factory=lambda fields: {key_name(name): value for name, value in fields})
