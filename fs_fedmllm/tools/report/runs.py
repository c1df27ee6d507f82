"""Finished runs and sweeps, read from their folders; nothing is computed again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from fs_fedmllm.config import read_yaml
from fs_fedmllm.errors import FedMLLMError
from fs_fedmllm.evaluation.predictions import FILE, Prediction, read_predictions
from fs_fedmllm.files.untrusted import RECORDED, parse_json, read_json, read_regular
from fs_fedmllm.tools.sweeps.files import CELLS, ENDED, INDEX
from fs_fedmllm.tools.sweeps.table import Metric, Table, parse_table

Place = tuple[tuple[str, str], ...]


class ReportError(FedMLLMError):
    """A folder that holds no finished run or sweep."""


def place_of(coordinates: Mapping[str, str]) -> Place:
    """Coordinates as a key."""
    return tuple(coordinates.items())


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        folder: its run folder.
        seed: of the run.
        results: ``results.json``; of a run that diverged, what is known of it.
        diverged: the last round that all clients could be averaged in, or None: the run came to its last round.
    """

    folder: Path
    seed: int
    results: Mapping[str, Any]
    diverged: int | None = None

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """The resolved configuration, as a nested mapping."""
        return read_yaml(self.folder / "resolved_config.yaml")

    @cached_property
    def predictions(self) -> list[Prediction]:
        """Of the last evaluation; empty for a run of an older version."""
        path = self.folder / FILE
        return read_predictions(path) if path.is_file() else []

    @cached_property
    def lines(self) -> list[Mapping[str, Any]]:
        """``metrics.jsonl``."""
        path = self.folder / "metrics.jsonl"
        if not path.is_file():
            return []
        try:
            text = read_regular(path, RECORDED).decode("utf-8")
            return [parse_json(line) for line in text.splitlines() if line.strip()]
        except (OSError, ValueError) as error:
            raise ReportError(f"{path} cannot be read ({error}).") from error

    @cached_property
    def judge(self) -> Mapping[str, Any]:
        """``judge.json``, if the answers were graded."""
        path = self.folder / "judge.json"
        try:
            return read_json(path) if path.is_file() else {}
        except (OSError, ValueError) as error:
            raise ReportError(f"{path} cannot be read ({error}).") from error

    def value(self, name: str, at: str) -> float | None:
        """A figure of the run; None if it has none of that name.

        Args:
            name: of an evaluation, or a path after ``results.`` or ``judge.``.
            at: which evaluation: ``last``, ``best`` or ``zero_shot``.
        """
        for prefix, tree in (("results.", self.results), ("judge.", self.judge)):
            if name.startswith(prefix):
                return _number(tree, name.removeprefix(prefix).split("."))
        if self.diverged is not None and at == "last":
            return None
        evaluations = self.results.get("evaluations") or [{}]
        chosen = evaluations[-1] if at == "last" else self.results.get(at)
        return _number(chosen, [name])

    def curve(self, name: str) -> dict[int, float]:
        """Round -> a turn's figure, mean over the clients; or rounds done -> an evaluation's figure."""
        found: dict[int, list[float]] = {}
        for line in self.lines:
            if line.get("kind") in ("turn", "evaluation"):
                number = _number(line, [name])
                if number is not None:
                    found.setdefault(int(line["round"]) + (line["kind"] == "turn"), []).append(number)
        return {place: sum(values) / len(values) for place, values in sorted(found.items())}


def _number(tree: Any, path: Sequence[str]) -> float | None:
    for part in path:
        tree = tree.get(part) if isinstance(tree, Mapping) else None
    return float(tree) if isinstance(tree, int | float) and not isinstance(tree, bool) else None


@dataclass(frozen=True)
class Sheet:
    """What a report is of.

    Attributes:
        table: rows, columns, metrics and the paper's figures.
        runs: place -> its finished runs, by ascending seed.
        wanted: runs that the sweep has in all.
        tiny: made with ``--tiny``: the figures mean nothing.
    """

    table: Table
    runs: Mapping[Place, Sequence[Run]]
    wanted: int
    tiny: bool = False

    @property
    def finished(self) -> int:
        """Runs that are there."""
        return len({run.folder for runs in self.runs.values() for run in runs})

    def at(self, coordinates: Mapping[str, str]) -> Sequence[Run]:
        """Runs at a place; a zero-shot row borrows those of its column that were asked with the same prompt."""
        if self.table.place(coordinates) != "zero_shot":
            return self.runs.get(place_of({axis.name: coordinates[axis.name] for axis in self.table.axes}), ())
        column = {name: coordinates[name] for name in self.table.columns}
        lent: dict[int, Run] = {}
        for place, runs in self.runs.items():
            if all(dict(place)[name] == value for name, value in column.items()):
                for run in runs:
                    if run.config["fedmllm"]["prompt"] == "original" and run.results.get("zero_shot"):
                        lent.setdefault(run.seed, run)
        return [lent[seed] for seed in sorted(lent)]

    def rows(self) -> list[dict[str, str]]:
        """Coordinates of the rows."""
        return list(self.table.places(self.table.rows))

    def columns(self) -> list[dict[str, str]]:
        """Coordinates of the columns; one empty one where every axis makes rows."""
        return list(self.table.places(self.table.columns))

    def title(self, coordinates: Mapping[str, str]) -> str:
        """A row's or a column's title."""
        return ", ".join(value.title for value in self.table.values(coordinates))


def read_run(folder: Path) -> Run | None:
    """A finished run, or None if the folder holds none.

    Raises:
        ReportError: its results are no results of ours.
    """
    path = folder / "results.json"
    if not path.is_file():
        return _diverged(folder)
    try:
        results = read_json(path)
        return Run(folder, int(results["seed"]), results)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ReportError(f"{path} cannot be read ({error}).") from error


def _diverged(folder: Path) -> Run | None:
    path = folder / ENDED
    if not path.is_file():
        return None
    try:
        ended = read_json(path)
        seed = int(ended["seed"])
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ReportError(f"{path} cannot be read ({error}).") from error
    lines = Run(folder, seed, {}).lines
    evaluations = [{k: v for k, v in line.items() if k != "kind"} for line in lines if line["kind"] == "evaluation"]
    rounds = sum(line["kind"] == "round" for line in lines)
    first = evaluations[0] if evaluations and evaluations[0]["round"] == 0 else None
    results = {**ended, "evaluations": evaluations, "zero_shot": first, "rounds": rounds}
    return Run(folder, seed, results, rounds)


def read_sheet(folders: Sequence[Path]) -> Sheet:
    """One sweep, or one or more runs side by side.

    Raises:
        ReportError: a folder holds neither.
    """
    if len(folders) == 1 and (folders[0] / INDEX).is_file():
        return _read_sweep(folders[0])
    runs = []
    for folder in folders:
        run = read_run(folder)
        if run is None:
            raise ReportError(f"{folder} holds no finished run (results.json), nor a sweep ({INDEX}).")
        runs.append(run)
    return _side_by_side(runs)


def _read_sweep(folder: Path) -> Sheet:
    try:
        index = read_json(folder / INDEX)
        table = parse_table(index["table"], str(index["name"]), str(folder / INDEX))
        places: dict[Place, list[Run]] = {}
        for cell in index["cells"]:
            # A name, never a path out of the sweep.
            run = read_run(folder / CELLS / Path(str(cell["folder"])).name)
            if run is not None:
                coordinates = {axis.name: str(cell["coordinates"][axis.name]) for axis in table.axes}
                places.setdefault(place_of(coordinates), []).append(run)
        wanted = len({cell["key"] for cell in index["cells"]})
        tiny = bool(index["tiny"])
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ReportError(f"{folder / INDEX} cannot be read ({error}).") from error
    for runs in places.values():
        runs.sort(key=lambda run: run.seed)
    return Sheet(table, places, wanted, tiny)


#: Figures of a run that is on no table, in the order of the columns.
_USUAL = ("test_auc", "test_macro_f1", "test_acc", "test_open_acc", "test_closed_acc", "test_image_acc",
          "test_text_acc", "test_loss")  # fmt: skip


def _side_by_side(runs: Sequence[Run]) -> Sheet:
    """Runs that differ in the seed only make one row."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        config = {k: v for k, v in run.config.items() if k not in ("seed", "outdir", "expname")}
        groups.setdefault(json.dumps(config, sort_keys=True, default=str), []).append(run)
    names: dict[str, list[Run]] = {}
    for group in groups.values():
        name = group[0].folder.name
        while name in names:
            name += "'"
        names[name] = sorted(group, key=lambda run: run.seed)
    last = [run.results["evaluations"][-1] for run in runs if run.results.get("evaluations")]
    metrics = [
        {"name": name, "scale": 1 if name.endswith("loss") else 100, "decimals": 3 if name.endswith("loss") else 1}
        for name in _USUAL
        if any(name in figures for figures in last)
    ]
    if not metrics:
        raise ReportError("None of these runs was evaluated on test rows.")
    titles = {
        name: {"title": f"{name} ({len(group)} seeds)" if len(group) > 1 else name} for name, group in names.items()
    }
    raw = {
        "title": "Runs side by side" if len(runs) > 1 else runs[0].folder.name,
        "axes": {"run": {"title": "Run", "values": titles}},
        "metrics": metrics,
        "curves": ["loss", "grad_norm", metrics[0]["name"]],
    }
    table = parse_table(raw, "runs", "runs")
    return Sheet(table, {(("run", name),): group for name, group in names.items()}, len(runs))


def split_name(metric: Metric) -> tuple[str, str] | None:
    """(view, metric without its split) of a figure of the test rows; None for any other."""
    name = metric.name
    for prefix, shown in (("test_image_", "image"), ("test_text_", "text"), ("test_", "both")):
        if name.startswith(prefix):
            return shown, name.removeprefix(prefix)
    return None
