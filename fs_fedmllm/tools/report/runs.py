"""Finished runs and sweeps side by side, read from their folders; nothing is computed again."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fs_fedmllm.config.test_sets import NAME
from fs_fedmllm.errors import printable
from fs_fedmllm.files.untrusted import read_json
from fs_fedmllm.tools.report.figures_only import FiguresOnly
from fs_fedmllm.tools.report.finished import TEST_SETS, ReportError, Run, of_test_set, read_run
from fs_fedmllm.tools.sweeps.figures_file import gathered, known_runs
from fs_fedmllm.tools.sweeps.files import FIGURES, INDEX, OTHER_RUN, cell_place
from fs_fedmllm.tools.sweeps.table import Metric, Table
from fs_fedmllm.tools.sweeps.table_file import parse_table

Place = tuple[tuple[str, str], ...]


def place_of(coordinates: Mapping[str, str]) -> Place:
    """Coordinates as a key."""
    return tuple(coordinates.items())


@dataclass(frozen=True)
class Sheet:
    """What a report is of.

    Attributes:
        table: rows, columns, metrics and the paper's figures.
        runs: place -> its finished runs, by ascending seed.
        wanted: runs that the sweep has in all.
        tiny: made with ``--tiny``: the figures mean nothing.
        differing: titles of runs that are here and, with other figures, in the file of figures too.
    """

    table: Table
    runs: Mapping[Place, Sequence[Run]]
    wanted: int
    tiny: bool = False
    differing: Sequence[str] = ()

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
                    if run.has_zero_shot:
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
        if run is None and (folder / INDEX).is_file():
            raise ReportError(f"{folder} is a sweep, which is reported alone: name it and nothing else.")
        if run is None:
            raise ReportError(f"{folder} holds no finished run (results.json), nor a sweep ({INDEX}).")
        runs.append(run)
    return _side_by_side(runs)


def _read_sweep(folder: Path) -> Sheet:
    try:
        index = read_json(folder / INDEX)
        table = parse_table(index["table"], str(index["name"]), str(folder / INDEX))
        cells = _cells(index, table)
        known = known_runs((key, seed, place) for key, seed, place, _ in cells)
        recorded = gathered([], folder / FIGURES, table, known).runs
        places: dict[Place, list[Run]] = {}
        differing = []
        for key, seed, coordinates, name in cells:
            place = cell_place(folder, key, name)
            run = read_run(place)
            if run is not None:
                _require_own(run, key, seed)
            told = recorded.get(key)
            if run is None and told is not None and not told.lacking(table, coordinates):
                run = FiguresOnly.told(told)
            elif run is not None and told is not None and not told.agrees(run.value, run.diverged):
                differing.append(", ".join([*coordinates.values(), f"seed {run.seed}"]))
            if run is not None:
                places.setdefault(place_of(coordinates), []).append(run)
        wanted = len(known)
        tiny = bool(index["tiny"])
    except (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
        raise ReportError(
            f"{folder / INDEX} cannot be read ({error}). Let fs-fedmllm sweep write it anew: the cells stay."
        ) from error
    for runs in places.values():
        runs.sort(key=lambda run: run.seed)
    return Sheet(table, places, wanted, tiny, differing)


def _cells(index: Mapping[str, Any], table: Table) -> list[tuple[str, int, dict[str, str], str]]:
    """Key, seed, place and folder of every cell; a folder is a name, never a path out of the sweep.

    Raises:
        ValueError: a place is none of the table, or stands twice.
        LookupError, TypeError, AttributeError: this is no index.
    """
    found = []
    for cell in index["cells"]:
        place = {axis.name: str(cell["coordinates"][axis.name]) for axis in table.axes}
        for axis in table.axes:
            if place[axis.name] not in [value.name for value in axis.values]:
                raise ValueError(f"a cell has the {axis.name} {place[axis.name]!r}, which its table does not have")
        found.append((str(cell["key"]), int(cell["seed"]), place, Path(str(cell["folder"])).name))
    if len({(seed, place_of(place)) for _, seed, place, _ in found}) < len(found):
        raise ValueError("a cell stands twice")
    return found


def _require_own(run: Run, key: str, seed: int) -> None:
    """Refuse a run that is not the cell's: its figures would stand under another name.

    Raises:
        ReportError: it is of another configuration.
    """
    if run.results.get("config_sha256", key) != key or run.seed != seed:
        raise ReportError(OTHER_RUN.format(folder=run.folder, key=key[:12]))


#: Figures of a run that is on no table, in the order of the columns.
_USUAL = ("test_auc", "test_macro_f1", "test_acc", "test_open_acc", "test_closed_acc", "test_image_acc",
          "test_text_acc", "test_loss")  # fmt: skip


def _side_by_side(runs: Sequence[Run]) -> Sheet:
    """Runs that differ in the seed only make one row; a seed's second run, or a copy of it, begins another row."""
    groups: dict[tuple[str, int], list[Run]] = {}
    before: Counter[tuple[str, int]] = Counter()
    for run in runs:
        config = {k: v for k, v in run.config.items() if k not in ("seed", "outdir", "expname")}
        same = json.dumps(config, sort_keys=True, default=str)
        groups.setdefault((same, before[same, run.seed]), []).append(run)
        before[same, run.seed] += 1
    names: dict[str, list[Run]] = {}
    for group in groups.values():
        name = printable(group[0].folder.resolve().name).strip() or "run"
        while name in names:
            name += "'"
        names[name] = sorted(group, key=lambda run: run.seed)
    sets = dict.fromkeys(name for run in runs for name in run.results.get("test_sets") or {} if NAME.fullmatch(name))
    metrics = [metric for name in ("", *sets) for metric in _usual_metrics(runs, name)]
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


def _usual_metrics(runs: Sequence[Run], test_set: str) -> list[dict[str, Any]]:
    """The usual figures that any of the runs has of its own test rows, or of a further set."""
    of = [run.of(test_set).results.get("evaluations") or [{}] for run in runs]
    found = []
    for name in _USUAL:
        if any(name in evaluations[-1] for evaluations in of):
            loss = name.endswith("loss")
            metric = {"name": name, "scale": 1 if loss else 100, "decimals": 3 if loss else 1}
            if test_set:
                title = f"{test_set}: {name.removeprefix('test_').replace('_', ' ')}"
                metric |= {"name": f"{TEST_SETS}{test_set}.{name}", "title": title}
            found.append(metric)
    return found


def split_name(metric: Metric) -> tuple[str, str, str] | None:
    """(test set, view, metric without its split) of a figure of test rows; None for any other."""
    test_set, name = of_test_set(metric.name)
    for prefix, shown in (("test_image_", "image"), ("test_text_", "text"), ("test_", "both")):
        if name.startswith(prefix):
            return test_set, shown, name.removeprefix(prefix)
    return None
