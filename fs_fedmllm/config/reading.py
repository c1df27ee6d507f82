"""From a YAML file and overrides to a checked configuration; unknown keys are errors."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from fs_fedmllm.algorithms import REGULARIZERS, SECTIONS
from fs_fedmllm.config.aggregation import RULES
from fs_fedmllm.config.checks import check, numbers
from fs_fedmllm.config.clients import PER_CLIENT, client_words, own_settings
from fs_fedmllm.config.common_names import BESIDE, COMMON_NAMES
from fs_fedmllm.config.host_defaults import DEFAULTS
from fs_fedmllm.config.host_keys import host_key
from fs_fedmllm.config.host_reading import METHOD_PREFIX, HostReader, host_values, leaves, put
from fs_fedmllm.config.nearest import nearest
from fs_fedmllm.config.open_names import own_names, scenario_parameters
from fs_fedmllm.config.overrides import apply_overrides
from fs_fedmllm.config.places import placed
from fs_fedmllm.config.schema import Config
from fs_fedmllm.errors import ConfigError
from fs_fedmllm.files.safe_yaml import parse_yaml, yaml_fault
from fs_fedmllm.files.untrusted import WRITTEN, read_regular
from fs_fedmllm.keys import field_of, key_name, key_types


def _all_keys(cls: Any, prefix: str = "") -> list[str]:
    keys: list[str] = []
    for name, kind in key_types(cls).items():
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


#: Sections of the schema and of FederatedScope; any other is that of somebody else's extension.
_SECTIONS = {name.partition(".")[0] for name in (*known_keys(), *DEFAULTS)}

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
                elif not host or path.partition(".")[0] in _SECTIONS:
                    section = any(known.startswith(f"{full}.") for known in DEFAULTS)
                    raise ConfigError(f"{where}: {unknown_key(path if section else full)}")
        return ours

    return walk(Config, raw, ""), foreign


def _build(cls: Any, raw: Any, where: str, path: str = "") -> Any:
    if not isinstance(raw, Mapping):
        raise ConfigError(f"{where}: {path} must be a mapping of keys to values, got {raw!r}.")
    hints = key_types(cls)
    values: dict[str, Any] = {}
    for name, value in raw.items():
        full = f"{path}.{name}" if path else str(name)
        if name not in hints:
            raise ConfigError(f"{where}: {unknown_key(full)}")
        kind = hints[name]
        if dataclasses.is_dataclass(kind):
            values[field_of(name)] = _build(kind, value if value is not None else {}, where, full)
            continue
        metadata = next(f.metadata for f in dataclasses.fields(cls) if f.name == field_of(name))
        choices = metadata.get("choices", ())
        if value is False and kind is str and "off" in choices:  # YAML reads the bare word so
            value = "off"
        value = _coerce(value, kind, full, where)
        unset = value == "" and full == "data.splitter"
        if choices and isinstance(value, str) and value not in choices and not unset:
            raise ConfigError(
                f"{where}: {full} is {value!r}, which is not one of {', '.join(choices)}{nearest(value, choices)}"
            )
        values[field_of(name)] = value
    return cls(**values)


def _known(path: str) -> bool:
    return path in known_keys() or host_key(path) is not None


def _typed(own: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """A client's own values as the schema has them."""
    made = _build(Config, own, where)
    for path, value, valid in numbers(made):
        if not valid.holds(value) and path in PER_CLIENT:
            raise ConfigError(f"{where}.{path} is {value!r}; it must be {valid}.")
    typed: dict[str, Any] = {}
    for path, _ in leaves(own):
        put(typed, path, functools.reduce(getattr, path.split("."), made))
    return typed


def read_clients(raw: Any, where: str) -> dict[str, dict[str, Any]]:
    """FederatedScope's ``--client_cfg``, as ``fedmllm.clients`` has it.

    Args:
        raw: ``client_<id>`` -> nested keys.
        where: file name for error messages.

    Raises:
        ConfigError: a name that is no client's, or a key that clients cannot have for themselves.
    """
    return own_settings(raw, where, known=_known, unknown=unknown_key, typed=_typed)


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
    config: Config = _build(Config, ours, where)
    config = _with_outside_parameters(config, where)
    check(config, where)
    return config


def _with_outside_parameters(config: Config, where: str) -> Config:
    """Parameters of algorithms, rules and scenarios of other packages, brought to the types that they declare."""
    given = config.fedmllm.parameters
    rule = RULES.get(config.fedmllm.aggregation.rule)
    chosen: tuple[Any, ...] = (config.method, REGULARIZERS[config.fedmllm.regularizer.type], rule)
    declared = {
        algorithm.section: algorithm.parameters
        for algorithm in chosen
        if getattr(algorithm, "parameters", None) is not None and algorithm.section not in SECTIONS
    }
    for name in given:
        if name not in declared:
            raise ConfigError(
                f"{where}: fedmllm.parameters.{name} belongs to no algorithm of this run"
                + (f"; there is {', '.join(declared)}." if declared else ". Remove it.")
            )
    built = {}
    for name, cls in declared.items():
        built[name] = _outside(cls, given.get(name) or {}, where, f"fedmllm.parameters.{name}")
    data, scenario = config.data, scenario_parameters(config.scenario)
    args = data.splitter_args or [{}]
    if scenario is not None and len(args) == 1 and isinstance(args[0], Mapping):  # anything else is refused later
        own = {name: args[0][name] for name in own_names(config.scenario) if name in args[0]}
        args = [{**args[0], **_outside(scenario, own, where, "data.splitter_args")}]
        data = dataclasses.replace(data, splitter_args=args)
    return dataclasses.replace(config, data=data, fedmllm=dataclasses.replace(config.fedmllm, parameters=built))


def _outside(cls: Any, given: Mapping[str, Any], where: str, path: str) -> dict[str, Any]:
    """Parameters that another package declares, checked like every key."""
    parameters = _build(cls, given, where, path)
    for name, value, valid in numbers(parameters, f"{path}."):
        if not valid.holds(value):
            raise ConfigError(f"{where}: {name} is {value!r}; it must be {valid}.")
    return dataclasses.asdict(parameters)


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


def load(
    path: str | Path, overrides: Sequence[str] = (), *, host: bool = False, client_cfg: str | Path | None = None
) -> Config:
    """Read a file, apply overrides, check, and return the configuration.

    Arguments as in :func:`given_mapping` and :func:`from_mapping`.
    """
    return from_mapping(given_mapping(path, overrides, client_cfg), str(path), host=host)


def host_mapping(config: Config, raw: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration as FederatedScope is to read it: every value of the run, and what was given for it alone.

    Args:
        config: the run's.
        raw: what it was made from.
    """
    merged = to_mapping(config)
    merged |= {name: section for name, section in raw.items() if name not in _SECTIONS}
    _, foreign = divide(raw, "configuration", host=True)
    for path, value in [*foreign.items(), *host_values(config)]:
        if path not in ("expname_tag", "data.batch_size"):  # they are in expname and dataloader.batch_size already
            put(merged, path, value)
    return merged


def to_mapping(config: Any) -> dict[str, Any]:
    """The configuration as a nested mapping of plain values, defaults included."""
    return dataclasses.asdict(config, dict_factory=lambda fields: {key_name(name): value for name, value in fields})
