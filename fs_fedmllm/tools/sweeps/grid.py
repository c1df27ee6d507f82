"""From a table to its cells: one resolved configuration each, known by what it differs in from the defaults."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from fs_fedmllm.config import Config, apply_overrides, config_digest, from_mapping, read_yaml
from fs_fedmllm.config.overrides import override_pairs
from fs_fedmllm.config.places import placed
from fs_fedmllm.errors import ConfigError
from fs_fedmllm.shipped import find_config
from fs_fedmllm.tools.sweeps.table import SEED, Table, TableError
from fs_fedmllm.tools.sweeps.table_file import OWN_KEYS
from fs_fedmllm.tools.sweeps.tiny import as_tiny

#: Characters of a cell's place in the name of its folder; file systems take 255 of a name.
_LONGEST = 150


@dataclass(frozen=True)
class Cell:
    """One run of a sweep.

    Attributes:
        coordinates: axis -> value, without the seed.
        seed: of the run.
        config: resolved.
        key: of the configuration's content; equal for cells that are one and the same run.
    """

    coordinates: Mapping[str, str]
    seed: int
    config: Config
    key: str

    @property
    def title(self) -> str:
        """Its coordinates, for people."""
        return ", ".join([*self.coordinates.values(), f"seed {self.seed}"])

    @property
    def folder(self) -> str:
        """Name of its run folder."""
        words = "-".join([*self.coordinates.values(), f"s{self.seed}"])
        return f"{re.sub(r'[^A-Za-z0-9_+-]+', '_', words).strip('_')[:_LONGEST]}-{self.key[:12]}"


def cells(
    table: Table, overrides: Sequence[str] = (), *, tiny: bool = False, beside: Path | None = None
) -> list[Cell]:
    """The table's runs in the order of execution.

    Args:
        table: the grid.
        overrides: ``key value ...`` for every run, over the table's own.
        tiny: swap in the embedded model and data, a few steps and the first seed only.
        beside: folder of the table file; configurations are looked for here first.

    Raises:
        TableError: a cell does not resolve; the message names it and the configuration's own error.
    """
    found = []
    given = [key for key, _ in override_pairs(overrides)]
    for key in given:
        if key in OWN_KEYS:
            raise TableError(f"The override {key} is not the sweep's to take: it is given by {OWN_KEYS[key]}.")
    read = cache(lambda path: placed(read_yaml(path), path, given))  # many cells, few files
    for place in _ordered(table):
        coordinates = {axis.name: place[axis.name] for axis in table.axes}
        if table.skipped(coordinates) or table.place(coordinates) == "zero_shot":
            continue
        seed = int(place[SEED])
        if tiny and seed != table.seeds[0]:
            continue
        try:
            config = _resolve(table, coordinates, seed, overrides, tiny, _finder(beside, read))
        except ConfigError as error:
            raise TableError(f"{table.name}, {', '.join(coordinates.values())}: {error}") from error
        found.append(Cell(coordinates, seed, config, config_digest(config)))
    return found


def overridden(table: Table, overrides: Sequence[str]) -> dict[str, list[str]]:
    """Key of an override -> the values of the table that set it, or a part of it, themselves."""
    found: dict[str, list[str]] = {}
    for key, _ in override_pairs(overrides):
        for axis in table.axes:
            for value in axis.values:
                if any(f"{own}.".startswith(f"{key}.") or f"{key}.".startswith(f"{own}.") for own in value.settings):
                    found.setdefault(key, []).append(f"{axis.name}={value.name}")
    return found


def _ordered(table: Table) -> list[dict[str, str]]:
    places: list[dict[str, str]] = [{}]
    for name in table.order:
        values = [str(seed) for seed in table.seeds] if name == SEED else [v.name for v in table.axis(name).values]
        places = [{**place, name: value} for place in places for value in values]
    return places


def _finder(beside: Path | None, read: Callable[[Path], dict[str, Any]]) -> Callable[[str], dict[str, Any]]:
    """From a configuration's name to its content: beside the table file, or as every command looks for it."""

    def find(name: str) -> dict[str, Any]:
        local = beside / name if beside is not None else None
        return read(local if local is not None and local.is_file() else find_config(name))

    return find


def _resolve(
    table: Table,
    coordinates: Mapping[str, str],
    seed: int,
    overrides: Sequence[str],
    tiny: bool,
    find: Callable[[str], dict[str, Any]],
) -> Config:
    values = table.values(coordinates)
    named = [value.config for value in values if value.config]
    if len(named) > 1:
        raise ConfigError(f"two axis values name a configuration, {' and '.join(named)}; one may.")
    name = named[0] if named else table.config
    if not name:
        raise ConfigError("no configuration is named; give the table, or a value of an axis, the key config.")
    _refuse_contradictions(table, coordinates)
    raw = find(name)
    for settings in (table.settings, *(value.settings for value in values)):
        for key, setting in settings.items():
            raw = _with(raw, key.split("."), setting)
    raw = _with(raw, [SEED], seed)
    if tiny:
        raw = as_tiny(raw)
    return from_mapping(apply_overrides(raw, overrides), f"{name} as the table sets it")


def _refuse_contradictions(table: Table, coordinates: Mapping[str, str]) -> None:
    """Refuse two values of a place that set a key otherwise: one of them would not be what it is called."""
    seen: dict[str, tuple[str, Any]] = {}
    for axis, name in coordinates.items():
        for key, setting in table.axis(axis).value(name).settings.items():
            for other, (place, before) in seen.items():
                one, two = f"{key}.", f"{other}."
                if (key != other or setting != before) and (one.startswith(two) or two.startswith(one)):
                    raise ConfigError(
                        f"{place} sets {other} to {before!r}, and axes.{axis}.values.{name} sets {key} to "
                        f"{setting!r}. Let one of them set it, or skip the cell."
                    )
            seen[key] = (f"axes.{axis}.values.{name}", setting)


def _with(raw: Mapping[str, Any], path: Sequence[str], value: Any) -> dict[str, Any]:
    """The mapping with one value set; what it was made from stays as it is."""
    first, *rest = path
    below = raw.get(first) or {}
    if rest and not isinstance(below, Mapping):
        raise ConfigError(f"{first!r} is a value, not a section, so {'.'.join(path)!r} cannot be set.")
    return {**raw, first: _with(below, rest, value) if rest else value}
