"""How far figures spread at each level of the scenarios (the paper's Figure 6), from the cells of table files.

A box holds, at one level, the figures of all methods of a table: the paper's as the table file records them, and ours
as the mean over the seeds that are finished. What the paper prints of that figure has no numbers, so the cells of its
Tables 2 to 5 are what is drawn.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from fs_fedmllm.config import Config, from_mapping
from fs_fedmllm.errors import ConfigError
from fs_fedmllm.files.atomic import write_atomically
from fs_fedmllm.quoting import spreadsheet_cell
from fs_fedmllm.tools.report.canvas import MARKERS, as_drawn, pyplot, save, shades
from fs_fedmllm.tools.report.finished import ReportError
from fs_fedmllm.tools.report.runs import Sheet, read_sheet
from fs_fedmllm.tools.sweeps.grid import cells
from fs_fedmllm.tools.sweeps.table import TableError
from fs_fedmllm.tools.sweeps.table_file import load_table

SCENARIOS = ("aligned", "missing", "cross", "hybrid")
PAPER, OURS = "paper", "ours"


@dataclass(frozen=True)
class Point:
    """One method's figure at one level.

    Attributes:
        dataset: ``data.type``.
        metric: name of the figure, without its split.
        scenario, level: where.
        row: title of the table's row, as a rule the method.
        zero_shot: the model before training; it is in no box.
        source: ``paper`` or ``ours``.
        mean: in the table's unit; of ours, over the seeds.
        seeds: of ours; 0 for the paper's.
        table: name of the table file.
    """

    dataset: str
    metric: str
    scenario: str
    level: str
    row: str
    zero_shot: bool
    source: str
    mean: float
    seeds: int
    table: str


def read_sheets(places: Sequence[Path]) -> list[Sheet]:
    """Sweeps, and table files by themselves, which have the paper's figures and no runs.

    Raises:
        ReportError: a folder holds no sweep.
        TableError: a table file means nothing.
    """
    return [Sheet(load_table(place), {}, 0) if place.suffix == ".yaml" else _sweep(place) for place in places]


def _sweep(folder: Path) -> Sheet:
    from fs_fedmllm.tools.sweeps.files import INDEX

    if not (folder / INDEX).is_file():
        raise ReportError(f"{folder} holds no sweep ({INDEX}); --spread takes folders of sweeps and table files.")
    return read_sheet([folder])


def points_of(sheet: Sheet) -> list[Point]:
    """The cells of a table, the paper's and ours, each with the level that it was run at."""
    settings = _settings(sheet)
    found = []
    for row in sheet.rows():
        for column in sheet.columns():
            place = {**row, **column}
            config = settings.get(tuple(sorted(column.items()))) or settings.get(tuple(sorted(row.items())))
            if config is None:
                continue
            metric = sheet.table.metrics_at(place)[0]
            at = sheet.table.place(place)
            # the axis that names the level is not what tells two figures of a level apart
            said = {name: value for name, value in place.items() if not sheet.table.axis(name).value(value).config}
            here = Point(
                config.data.type, metric.name.removeprefix("test_"), config.scenario, level_of(config),
                sheet.title(said) or config.federate.method, at == "zero_shot", PAPER, 0.0, 0, sheet.table.name,
            )  # fmt: skip
            paper = sheet.table.reported(place, metric)
            if paper is not None:
                found.append(replace(here, mean=paper.mean))
            runs = [run for run in sheet.at(place) if run.diverged is None or at != "last"]
            values = [value for run in runs if (value := run.value(metric.name, at)) is not None]
            if values:
                mean = metric.scale * sum(values) / len(values)
                found.append(replace(here, source=OURS, mean=mean, seeds=len(values)))
    return found


def _settings(sheet: Sheet) -> dict[tuple[tuple[str, str], ...], Config]:
    """Column or row of the table -> a configuration of its runs: of one that is there, or as the table resolves.

    Every run of a column (or of a row, where levels are rows) is at one level; one that is not is left out.
    """
    configs: list[tuple[Mapping[str, str], Config]] = []
    for place, runs in sheet.runs.items():
        run = next((run for run in runs if run.config), None)
        if run is not None:
            configs.append((dict(place), from_mapping(dict(run.config), str(run.folder))))
    if not sheet.tiny:
        try:
            configs += [(cell.coordinates, cell.config) for cell in cells(sheet.table)]
        except (TableError, ConfigError):
            if not configs:  # a table with configurations of its own folder, and nothing finished
                raise
    found: dict[tuple[tuple[str, str], ...], Config] = {}
    for names in (sheet.table.columns, sheet.table.rows):
        grouped: dict[tuple[tuple[str, str], ...], list[Config]] = {}
        for coordinates, config in configs:
            grouped.setdefault(tuple(sorted((name, coordinates[name]) for name in names)), []).append(config)
        for key, own in grouped.items():
            if len({(config.data.type, config.scenario, level_of(config)) for config in own}) == 1:
                found.setdefault(key, own[0])
    return found


def level_of(config: Config) -> str:
    """A scenario's level as the paper writes it."""
    args = config.scenario_args
    if config.scenario == "aligned":
        return f"α {args.get('alpha', 0.5):g}"
    if config.scenario == "missing":
        return f"{100 * args.get('beta', 0.5):g} %"
    if config.scenario == "cross":
        clients = config.federate.client_num
        image = args.get("image_clients")
        image = clients - args.get("text_clients", 0) if image is None else image
        return f"I-{image}:T-{clients - image}"
    if config.scenario == "hybrid":
        return f"p {args.get('p', 0.8):g}"
    return ", ".join(f"{name} {value}" for name, value in args.items()) or "default"


def panels(points: Sequence[Point]) -> Iterator[tuple[str, list[Point]]]:
    """(title, points) of each data set and figure."""
    for key in dict.fromkeys((point.dataset, point.metric) for point in points):
        yield ", ".join(key).replace("_", " "), [p for p in points if (p.dataset, p.metric) == key]


def levels(points: Sequence[Point]) -> list[tuple[str, str]]:
    """(scenario, level) in the paper's order of scenarios, the levels in that of the tables."""
    found = dict.fromkeys((point.scenario, point.level) for point in points)
    known = {name: place for place, name in enumerate(SCENARIOS)}
    return sorted(found, key=lambda pair: known.get(pair[0], len(known)))


def draw_spread(points: Sequence[Point], path: Path) -> list[Path]:
    """A panel for each data set and figure, a box for each level and source, a marker for each method.

    Boxes reach from the lowest to the highest method, with quartiles and median; a level with one method is a point.
    """
    plt = pyplot()
    drawn = list(panels(points))
    rows = list(dict.fromkeys(point.row for point in points if not point.zero_shot))
    sources = [source for source in (PAPER, OURS) if any(point.source == source for point in points)]
    fills = dict(zip((PAPER, OURS), shades(3)[1:], strict=True))
    wide = max(len(levels(own)) for _, own in drawn)
    figure, grid = plt.subplots(len(drawn), 1, figsize=(max(6.4, 2 + 0.8 * wide), 0.6 + 3.7 * len(drawn)),
                                layout="constrained", squeeze=False)  # fmt: skip
    for axes, (title, own) in zip(grid[:, 0], drawn, strict=True):
        _panel(axes, own, rows, sources, fills)
        axes.set(title=as_drawn(title), ylabel=as_drawn(own[0].metric.replace("_", " ")))
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = [Patch(facecolor=fills[source], edgecolor="black", label=source) for source in sources]
    handles += [
        Line2D(
            [],
            [],
            linestyle="",
            marker=MARKERS[i % len(MARKERS)],
            color="white",
            markeredgecolor="black",
            label=as_drawn(row),
        )
        for i, row in enumerate(rows)
    ]
    if any(point.zero_shot for point in points):
        handles.append(Line2D([], [], color="black", linestyle="--", linewidth=1, label="zero-shot"))
    figure.legend(handles=handles, loc="outside lower center", ncols=min(5, len(handles)), frameon=False, fontsize=9)
    return save(plt, figure, path)


def _panel(
    axes: Any, own: Sequence[Point], rows: Sequence[str], sources: Sequence[str], fills: Mapping[str, Any]
) -> None:
    where = levels(own)
    width = 0.7 / len(sources)
    for place, pair in enumerate(where):
        for index, source in enumerate(sources):
            here = [p for p in own if (p.scenario, p.level) == pair and p.source == source]
            centre = place + (index - (len(sources) - 1) / 2) * width
            boxed = [point for point in here if not point.zero_shot]
            if len(boxed) > 1:
                axes.boxplot([point.mean for point in boxed], positions=[centre], widths=0.85 * width, whis=(0, 100),
                             manage_ticks=False, patch_artist=True, medianprops={"color": "black", "linewidth": 1.6},
                             boxprops={"facecolor": fills[source], "linewidth": 0.8})  # fmt: skip
            for point in boxed:
                axes.plot(centre, point.mean, marker=MARKERS[rows.index(point.row) % len(MARKERS)], color="white",
                          markeredgecolor="black", markersize=5, linestyle="", zorder=3)  # fmt: skip
            for point in here:
                if point.zero_shot:
                    axes.plot([centre - width / 2, centre + width / 2], [point.mean] * 2, color="black",
                              linestyle="--", linewidth=1)  # fmt: skip
    axes.set_xticks(range(len(where)), [f"{level}\n{scenario}" for scenario, level in where], fontsize=9)
    for place in range(1, len(where)):
        if where[place][0] != where[place - 1][0]:
            axes.axvline(place - 0.5, color="0.75", linewidth=0.8)
    axes.set_xlim(-0.6, len(where) - 0.4)
    axes.grid(axis="y", color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def points_csv(points: Sequence[Point]) -> str:
    """What is drawn, a line for each point."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, [field.name for field in fields(Point)], lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: spreadsheet_cell(value) for name, value in asdict(point).items()} for point in points)
    return stream.getvalue()


def write_spread(places: Sequence[Path], out: Path) -> list[Path]:
    """Write ``spread.png``, ``.svg`` and ``.csv``.

    Args:
        places: folders of sweeps, table files.
        out: folder, made if it is not there.

    Raises:
        ReportError: there is nothing to draw.
    """
    points = [point for sheet in read_sheets(places) for point in points_of(sheet)]
    if not points:
        raise ReportError("None of these tables has a figure, of the paper or of a finished run, at a known level.")
    out.mkdir(parents=True, exist_ok=True)
    written = draw_spread(points, out / "spread")
    write_atomically(out / "spread.csv", points_csv(points).encode())
    return [*written, out / "spread.csv"]
