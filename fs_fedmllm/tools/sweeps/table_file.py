"""Table files: YAML read into a :class:`~fs_fedmllm.tools.sweeps.table.Table`, or refused with the key that is wrong.

``docs/sweeps.md`` explains one with an example. Unknown keys are errors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fs_fedmllm.config import read_yaml
from fs_fedmllm.config.from_python import given as flattened
from fs_fedmllm.config.nearest import nearest
from fs_fedmllm.errors import ConfigError
from fs_fedmllm.keys import is_number
from fs_fedmllm.tools.sweeps.table import PLACES, SEED, Axis, Metric, Reported, Table, TableError, Value

_TABLE = ("title", "about", "source", "config", "set", "axes", "seeds", "rows", "columns", "order", "baseline",
          "metrics", "at", "curves", "skip", "paper")  # fmt: skip
_AXIS = ("title", "values")
_VALUE = ("title", "config", "set", "metrics", "at", "note")
_METRIC = ("name", "title", "scale", "decimals")
_MOST_DECIMALS = 12
#: Keys of a run that are the sweep's own, and what gives them.
OWN_KEYS = {
    SEED: "the key seeds of the table; --only seed=N chooses some",
    "outdir": "--out",
    "expname": "the cell's place in the table",
    "fedmllm.workers": "--workers: cells run side by side, not their clients",
}


def load_table(path: Path) -> Table:
    """Read a table file.

    Raises:
        TableError: it means nothing; the message names the key.
        ConfigError: the file cannot be read or is no YAML.
    """
    return parse_table(read_yaml(path), path.stem, str(path))


def parse_table(raw: Mapping[str, Any], name: str, where: str = "table") -> Table:
    """Build a table from a nested mapping, checked.

    Raises:
        TableError: as :func:`load_table`.
    """
    reader = _Reader(where)
    reader.known(raw, _TABLE, "")
    axes = tuple(reader.axis(axis, body) for axis, body in reader.named(raw.get("axes", {}), "axes").items())
    reader.refuse(not axes, "axes", "must name at least one axis, for example method")
    names = [axis.name for axis in axes]
    reader.refuse(SEED in names, "axes.seed", "is given by the key seeds")
    for axis in names:
        reader.refuse(f"axis {axis}" in names, f"axes.axis {axis}", f"is the column of {axis!r} in a report.csv")
    rows = reader.names(raw.get("rows", names[:1]), "rows", names)
    columns = reader.names(raw.get("columns", [n for n in names if n not in rows]), "columns", names)
    reader.refuse(sorted((*rows, *columns)) != sorted(names), "rows", "and columns must together name every axis once")
    order = reader.names(raw.get("order", [SEED, *names]), "order", [SEED, *names])
    reader.refuse(sorted(order) != sorted([SEED, *names]), "order", f"must hold {SEED} and every axis once")
    seeds = raw.get("seeds", [0])
    reader.refuse(
        not isinstance(seeds, list) or not seeds or any(type(s) is not int or s < 0 for s in seeds)
        or len(set(seeds)) < len(seeds),
        "seeds", "must be a list of different whole numbers of 0 or more",
    )  # fmt: skip
    at = str(raw.get("at", "last"))
    reader.refuse(at not in PLACES, "at", f"must be one of {', '.join(PLACES)}")
    metrics = reader.metrics(raw.get("metrics", []), "metrics")
    reader.refuse(not metrics and not any(_own_metrics(axes, n) for n in names), "metrics", "must name at least one")
    table = Table(
        name=name,
        title=reader.text(raw, "title", name),
        about=reader.text(raw, "about").strip(),
        source=reader.text(raw, "source"),
        config=reader.text(raw, "config"),
        settings=reader.settings(raw.get("set", {}), "set"),
        axes=axes,
        seeds=tuple(seeds),
        rows=rows,
        columns=columns,
        order=order,
        baseline=reader.place(raw.get("baseline", {}), "baseline", axes, rows),
        metrics=metrics,
        at=at,
        curves=reader.curves(raw.get("curves", [])),
        skip=tuple(reader.place(part, "skip", axes, names) for part in reader.sequence(raw.get("skip", []), "skip")),
        paper={},
    )
    _refuse_unused(reader, table)
    paper = reader.paper(raw.get("paper", {}), table)
    reader.refuse(bool(paper) and not table.source, "source", "must say where the figures under paper are from")
    return Table(**{**vars(table), "paper": paper})


def _refuse_unused(reader: _Reader, table: Table) -> None:
    """Refuse keys that nothing would follow from."""
    everywhere = [axis.name for axis in table.axes if all(value.config for value in axis.values)]
    reader.refuse(
        bool(table.config and everywhere),
        "config", f"is of no run, since every value of {''.join(everywhere[:1])!r} names its own; take it out",
    )  # fmt: skip
    for axis in table.axes:
        for value in axis.values:
            reader.refuse(
                value.at == "zero_shot" and bool(value.config or value.settings),
                f"axes.{axis.name}.values.{value.name}",
                "has no run of its own (at: zero_shot), so its config and set would be of none; take them out",
            )
    reader.refuse(any(not part for part in table.skip), "skip", "has an empty entry, which would be every cell")
    if base := table.baseline:
        every = [place for place in table.places([axis.name for axis in table.axes]) if base.items() <= place.items()]
        reader.refuse(
            all(table.skipped(place) or table.place(place) == "zero_shot" for place in every),
            "baseline", "is a row without runs of its own, so nothing can be compared with it; name another",
        )  # fmt: skip


def _own_metrics(axes: Sequence[Axis], name: str) -> bool:
    return all(value.metrics for axis in axes if axis.name == name for value in axis.values)


class _Reader:
    """Checks, each of which names the file and the key."""

    def __init__(self, where: str):
        self.where = where

    def refuse(self, condition: bool, key: str, what: str) -> None:
        if condition:
            raise TableError(f"{self.where}: {key} {what}.")

    def known(self, raw: Mapping[str, Any], names: Sequence[str], path: str) -> None:
        for name in raw:
            if name not in names:
                raise TableError(f"{self.where}: unknown key {path + str(name)!r}{nearest(str(name), list(names))}")

    def mapping(self, raw: Any, key: str) -> Mapping[str, Any]:
        self.refuse(not isinstance(raw, Mapping), key, f"must be a mapping, got {raw!r}")
        return dict(raw)

    def sequence(self, raw: Any, key: str) -> list[Any]:
        self.refuse(not isinstance(raw, list), key, f"must be a list, got {raw!r}")
        return list(raw)

    def names(self, raw: Any, key: str, known: Sequence[str]) -> tuple[str, ...]:
        given = [str(name) for name in (raw if isinstance(raw, list) else [raw])]
        for name in given:
            self.refuse(name not in known, key, f"names {name!r}, which is none of {', '.join(known)}")
        return tuple(given)

    def text(self, raw: Mapping[str, Any], key: str, default: str = "", path: str = "") -> str:
        """A text; a number stands for its digits."""
        found = raw.get(key, default)
        wrong = isinstance(found, bool) or not isinstance(found, str | int | float)
        self.refuse(wrong, path + key, f"must be a text, got {found!r}. Put it into quotes, or take the key out")
        return str(found)

    def named(self, raw: Any, key: str) -> dict[str, Any]:
        """A mapping by names, which are texts that differ; 1.0 and "1.0" would be one."""
        found: dict[str, Any] = {}
        for name, body in self.mapping(raw, key).items():
            self.refuse(
                isinstance(name, bool) or name is None, key,
                f"has a name that YAML reads as {name}, as yes, no, on, off and ~ are. Put the name into quotes",
            )  # fmt: skip
            told = str(name)
            self.refuse(
                not told.strip() or not told.isprintable() or told != told.strip(), key,
                f"has the name {told!r}; a name is one line of text without blanks around it",
            )  # fmt: skip
            self.refuse(told in found, key, f"has the name {told!r} twice, once as a number and once as a text")
            found[told] = body
        return found

    def curves(self, raw: Any) -> tuple[str, ...]:
        found = self.sequence(raw, "curves")
        self.refuse(any(not isinstance(name, str) for name in found), "curves", "must be names of figures")
        self.refuse(len(set(found)) < len(found), "curves", "has a name twice; take one out")
        return tuple(found)

    def settings(self, raw: Any, key: str) -> dict[str, Any]:
        """Dotted key -> value; of a section that is given, the keys that it has."""
        found: dict[str, Any] = {}
        for name, value in self.named(raw, key).items():
            try:
                pairs = list(flattened(name, value))
            except ConfigError as error:
                raise TableError(f"{self.where}: {key}: {error}") from error
            for dotted, inner in pairs:
                for owner, instead in OWN_KEYS.items():
                    self.refuse(dotted == owner, f"{key}.{dotted}", f"is given by {instead}. Take it out")
                self.refuse(dotted in found, f"{key}.{dotted}", "is given twice; take one out")
                found[dotted] = inner
        return found

    def axis(self, name: str, raw: Any) -> Axis:
        path = f"axes.{name}"
        body = self.mapping(raw, path)
        self.known(body, _AXIS, path + ".")
        values = self.named(body.get("values", {}), f"{path}.values")
        self.refuse(not values, f"{path}.values", "must name at least one value")
        return Axis(
            name,
            self.text(body, "title", name, path + "."),
            tuple(self.value(value, given, f"{path}.values.{value}") for value, given in values.items()),
        )

    def value(self, name: str, raw: Any, path: str) -> Value:
        body = self.mapping(raw if raw is not None else {}, path)
        self.known(body, _VALUE, path + ".")
        at = str(body.get("at", ""))
        self.refuse(bool(at) and at not in PLACES, f"{path}.at", f"must be one of {', '.join(PLACES)}")
        return Value(
            name=name,
            title=self.text(body, "title", name, path + "."),
            config=self.text(body, "config", path=path + "."),
            settings=self.settings(body.get("set", {}), f"{path}.set"),
            metrics=self.metrics(body.get("metrics", []), f"{path}.metrics"),
            at=at,
            note=self.text(body, "note", path=path + "."),
        )

    def metrics(self, raw: Any, path: str) -> tuple[Metric, ...]:
        found: list[Metric] = []
        for part in raw if isinstance(raw, list) else [raw]:
            body: Mapping[str, Any] = {"name": part} if isinstance(part, str) else self.mapping(part, path)
            self.known(body, _METRIC, path + ".")
            name = body.get("name")
            if not isinstance(name, str) or not name:
                raise TableError(f"{self.where}: {path} must give each metric a name.")
            self.refuse(name in [metric.name for metric in found], path, f"names {name!r} twice; take one out")
            scale, decimals = body.get("scale", 100), body.get("decimals", 1)
            number = is_number(scale) and math.isfinite(scale)
            self.refuse(
                not number or not scale or type(decimals) is not int or not 0 <= decimals <= _MOST_DECIMALS,
                path, f"need a number other than 0 as scale, and 0 to {_MOST_DECIMALS} as decimals",
            )  # fmt: skip
            usual = name.removeprefix("results.").removeprefix("test_")
            title = self.text(body, "title", usual, f"{path}.{name}.")
            found.append(Metric(name, title.replace("_", " "), float(scale), decimals))
        return tuple(found)

    def place(self, raw: Any, key: str, axes: Sequence[Axis], allowed: Sequence[str]) -> dict[str, str]:
        found = {str(name): str(value) for name, value in self.mapping(raw, key).items()}
        for name, value in found.items():
            self.refuse(name not in allowed, key, f"names {name!r}, which is none of {', '.join(allowed)}")
            known = [v.name for axis in axes if axis.name == name for v in axis.values]
            self.refuse(value not in known, f"{key}.{name}", f"is {value!r}, which is none of {', '.join(known)}")
        return found

    def paper(self, raw: Any, table: Table) -> dict[tuple[str, ...], Reported]:
        """Nested by the row axes, then the column axes; a leaf is a number, [mean, std], or these by metric name."""
        found: dict[tuple[str, ...], Reported] = {}

        def walk(node: Any, axes: Sequence[str], coordinates: dict[str, str]) -> None:
            path = ".".join(["paper", *coordinates.values()])
            if axes:
                for name, below in self.mapping(node, path).items():
                    known = [value.name for value in table.axis(axes[0]).values]
                    self.refuse(str(name) not in known, path, f"has {name!r}, which is none of {', '.join(known)}")
                    walk(below, axes[1:], {**coordinates, axes[0]: str(name)})
                return
            metrics = table.metrics_at(coordinates)
            by_metric = node if isinstance(node, Mapping) else {metrics[0].name: node}
            for name, leaf in by_metric.items():
                known = [metric.name for metric in metrics]
                self.refuse(name not in known, path, f"has {name!r}, which is none of {', '.join(known)}")
                parts = leaf if isinstance(leaf, list) else [leaf]
                numbers = all(map(is_number, parts))
                numbers = numbers and all(math.isfinite(p) for p in parts)
                self.refuse(
                    len(parts) not in (1, 2) or not numbers,
                    path,
                    f"must hold a number or [mean, std], got {leaf!r}",
                )
                found[(*coordinates.values(), name)] = Reported(*(float(part) for part in parts))

        walk(raw, (*table.rows, *table.columns), {})
        return found
