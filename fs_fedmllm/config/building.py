"""From nested mappings to dataclasses, those of the schema and those that other packages declare; values are typed."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import re
from collections.abc import Mapping
from typing import Any

from fs_fedmllm.algorithms import REGULARIZERS, SECTIONS
from fs_fedmllm.config.aggregation import RULES
from fs_fedmllm.config.checks import numbers
from fs_fedmllm.config.known_keys import unknown_key
from fs_fedmllm.config.nearest import nearest
from fs_fedmllm.config.open_names import own_names, scenario_parameters
from fs_fedmllm.config.schema import Config
from fs_fedmllm.errors import ConfigError
from fs_fedmllm.keys import field_of, key_types

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
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        if isinstance(value, bool | float | datetime.date):  # what was written is not known any more: 1.10, no
            raise ConfigError(f"{where}: {path} must be a text, and YAML reads {value}. Put it into quotes.")
    elif kind is list:
        if isinstance(value, list | tuple):
            return list(value)
    elif kind is dict and isinstance(value, Mapping):
        return dict(value)
    raise ConfigError(f"{where}: {path} must be {_KINDS[kind]}, got {value!r}.")


def build(cls: Any, raw: Any, where: str, path: str = "") -> Any:
    """A dataclass from a nested mapping.

    Args:
        cls: of the schema, or of another package's parameters.
        raw: the mapping, as YAML gives it.
        where: file name for error messages.
        path: of the section, dotted; empty for the whole configuration.

    Raises:
        ConfigError: an unknown key, a wrong type, or a value that is none of its choices.
    """
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
            values[field_of(name)] = build(kind, value if value is not None else {}, where, full)
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


def with_outside_parameters(config: Config, where: str) -> Config:
    """Bring parameters of other packages' algorithms, rules and scenarios to the types that they declare.

    Raises:
        ConfigError: a section that belongs to none of them, or a parameter as in :func:`build`.
    """
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
    parameters = build(cls, given, where, path)
    for name, value, valid in numbers(parameters, f"{path}."):
        if not valid.holds(value):
            raise ConfigError(f"{where}: {name} is {value!r}; it must be {valid}.")
    return dataclasses.asdict(parameters)
