"""A report's content, laid out once for all the formats that it is written in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from fs_fedmllm.config.nearest import nearest
from fs_fedmllm.data.client_names import shown_name
from fs_fedmllm.tools.report import curves
from fs_fedmllm.tools.report.cells import cell_of
from fs_fedmllm.tools.report.elsewhere import differing_of, elsewhere_of
from fs_fedmllm.tools.report.facts import facts_of
from fs_fedmllm.tools.report.figures import baseline_of, column_metrics, entries, mean_slices
from fs_fedmllm.tools.report.finished import Run
from fs_fedmllm.tools.report.grids import Cell, Grid
from fs_fedmllm.tools.report.modalities import decisions_of, missing_rates, views_of
from fs_fedmllm.tools.report.runs import Sheet
from fs_fedmllm.tools.report.seeds import seed_grids


@dataclass
class Content:
    """Everything of a report.

    Attributes:
        sheet: the runs.
        tables: one for each metric.
        classes, clients: slices, a table for each column.
        pictures: (title of the column, SVG elements).
        legend: (title, colour, dash pattern) of the rows in the pictures.
        notes: of the rows, and what is to be said of the runs.
        models: that ran, by name.
        missing: nominal and measured missing rates, a row for each setting, none where nothing was missing; the four
            readings of the rows; when modalities were stood in for.
        sources: a row for every run: what made it.
        facts: of runs side by side: in what they differ, test rows, time and bytes, who holds which modality.
        elsewhere: of how many runs only the figures are here; none where all runs are.
        intervals, comparisons: whether a table has any, over test rows.
        seeds: rows against the baseline over seeds; none where no two seeds are shared.
    """

    sheet: Sheet
    tables: list[Grid] = field(default_factory=list)
    classes: list[Grid] = field(default_factory=list)
    clients: list[Grid] = field(default_factory=list)
    pictures: list[tuple[str, list[str]]] = field(default_factory=list)
    legend: list[tuple[str, str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    models: list[str] = field(default_factory=list)
    missing: list[Grid] = field(default_factory=list)
    sources: list[Mapping[str, str]] = field(default_factory=list)
    seeds: list[Grid] = field(default_factory=list)
    facts: list[Grid] = field(default_factory=list)
    elsewhere: list[Grid] = field(default_factory=list)
    intervals: bool = False
    comparisons: bool = False
    made: str = ""


def content_of(sheet: Sheet, *, pictures: bool = True) -> Content:
    """Compute a report; ``pictures`` need matplotlib."""
    content = Content(sheet, made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"))
    rows, columns = sheet.rows(), sheet.columns()
    most = max(len(column_metrics(sheet, column)) for column in columns)
    heads = [sheet.title(column) for column in columns]
    for index in range(most):
        shown = [c for c in columns if index < len(column_metrics(sheet, c))]
        metrics = [column_metrics(sheet, column)[index] for column in shown]
        same = len({metric.title for metric in metrics}) == 1
        head = [
            (sheet.title(c) or metric.title) if same else f"{sheet.title(c)}: {metric.title}"
            for c, metric in zip(shown, metrics, strict=True)
        ]
        found = [entries(sheet, column, index) for column in shown]
        body = [
            (sheet.title(row), [cell_of(found[j][i], metrics[j]) for j in range(len(shown))])
            for i, row in enumerate(rows)
        ]
        every = [entry for column in found for entry in column]
        content.intervals |= any(entry.interval is not None for entry in every)
        content.comparisons |= any(entry.versus is not None for entry in every)
        content.tables.append(Grid(metrics[0].title if same else "Figures", head, body))
    content.seeds = seed_grids(sheet)
    seen_curves = set() if pictures else set(sheet.table.curves)
    for column, title in zip(columns, heads, strict=True):
        own = [
            (sheet.title(row), i, runs)
            for i, row in enumerate(rows)
            if sheet.table.place(row) != "zero_shot" and (runs := sheet.at({**row, **column}))
        ]
        content.classes += _slices(own, title, "classes", "f1")
        content.clients += _slices(own, title, "clients", "acc")
        if pictures and own:
            drawn = []
            for k, figure in enumerate(sheet.table.curves):
                lines = curves.lines_of(own, figure)
                if lines:
                    seen_curves.add(figure)
                    drawn.append(curves.draw(lines, figure.replace("_", " "), f"c{len(content.pictures)}-{k}"))
            if drawn:
                content.pictures.append((title, drawn))
    for i, row in enumerate(rows):
        if sheet.table.place(row) != "zero_shot" and any(sheet.at({**row, **column}) for column in columns):
            content.legend.append((sheet.title(row), *curves.colour(i)))
    content.elsewhere = elsewhere_of(sheet)
    content.notes = [value.note for axis in sheet.table.axes for value in axis.values if value.note]
    content.notes += [line for line in [differing_of(sheet)] if line]
    content.notes += _without_figures(sheet, [name for name in sheet.table.curves if name not in seen_curves])
    seen: set[Path] = set()
    for place, runs in sheet.runs.items():
        for run in runs:
            if run.folder not in seen:
                seen.add(run.folder)
                content.sources.append({"run": sheet.title(dict(place)), **source_of(run)})
    content.models = sorted({source["model"] for source in content.sources if source["model"]})
    content.facts = facts_of(sheet)
    content.missing = [*missing_rates(sheet), *views_of(sheet), *decisions_of(sheet)]
    return content


def _without_figures(sheet: Sheet, curves: Sequence[str]) -> list[str]:
    """A line for each metric and curve of the table that no run has: its name may be misspelt."""
    runs = [run for group in sheet.runs.values() for run in group if run.diverged is None]
    if not runs:
        return []
    lines = []
    evaluations = [run.results.get("evaluations") or [{}] for run in runs]
    known = dict.fromkeys(name for own in evaluations for name in own[-1] if name != "round")
    read: dict[str, list[float | None]] = {}
    for row in sheet.rows():
        for column in sheet.columns():
            for metric in sheet.table.metrics_at(place := {**row, **column}):
                at = sheet.table.place(place)
                read.setdefault(metric.name, []).extend(run.value(metric.name, at) for run in sheet.at(place))
    for name, values in read.items():
        if values and all(value is None for value in values):
            undefined = ", or it is no finite number, as an AUC over rows of one class."
            lines.append(f"No run has a figure {name!r}{undefined if name in known else nearest(name, known)}")
    if any(run.lines for run in runs):
        lines += [f"No run has a curve {name!r}{nearest(name, [*known, 'loss', 'grad_norm'])}" for name in curves]
    return lines


def _slices(rows: Sequence[tuple[str, int, Sequence[Run]]], title: str, key: str, figure: str) -> list[Grid]:
    found = {name: mean_slices(runs, key, figure) for name, _, runs in rows}
    names = list(dict.fromkeys(name for numbers in found.values() for name in numbers))
    if not names:
        return []
    heads = _client_heads(names, [run for _, _, runs in rows for run in runs]) if key == "clients" else names
    body = [
        (name, [Cell(f"{100 * numbers[part]:.1f}" if part in numbers else "–") for part in names])
        for name, numbers in found.items()
        if numbers
    ]
    return [Grid(title, heads, body)]


def _client_heads(ids: Sequence[str], runs: Sequence[Run]) -> list[str]:
    """Clients with what the data calls them, where the runs agree on it: another split may have others."""
    heads = []
    for client in ids:
        said = {str((run.results.get("client_names") or {}).get(client) or "") for run in runs}
        heads.append(f"{client} ({shown_name(said.pop())})" if len(said) == 1 and "" not in said else client)
    return heads


def source_of(run: Run) -> dict[str, str]:
    """What made a run, as text."""
    results, made_by = run.results, run.made_by
    folder = made_by.pop("folder")
    seconds = (results.get("seconds") or {}).get("total")
    return {
        "seed": str(run.seed),
        **made_by,
        "rounds": str(results.get("rounds", "")),
        "refused": str(len(results["refused"] or [])) if "refused" in results else "",
        "seconds": f"{seconds:.0f}" if isinstance(seconds, int | float) else "",
        "folder": folder,
    }


def explanation(content: Content) -> list[str]:
    """How the figures are to be read: what is not there is not explained."""
    sheet = content.sheet
    base = sheet.title(baseline_of(sheet))
    several = any(len(runs) > 1 for runs in sheet.runs.values())
    lines = [
        "Mean ± sample standard deviation over the seeds; of the last round unless a row says otherwise."
        if several
        else "Figures of the last round unless a row says otherwise."
    ]
    if content.intervals:
        lines.append(
            "In brackets: 95 % bootstrap interval over the test rows of the mean over the seeds; it says how much "
            "these figures depend on which rows were tested, not on the seed."
            if several
            else "In brackets: 95 % bootstrap interval over the test rows; how much a figure depends on the seed, "
            "only further seeds show."
        )
    if content.comparisons:
        lines.append(
            f"Δ, against {base}: difference on the same test rows and seeds, its 95 % interval by a paired bootstrap, "
            "and a two-sided p-value after Holm's correction for the rows of the column. It speaks of rows: whether a "
            "method is better is a question about seeds."
        )
    if content.seeds:
        lines.append(
            f"Over seeds, against {base}: mean difference of runs with the same seed, its 95 % interval and two-sided "
            "p-value by Student's paired t-test, the latter after Holm's correction for every claim of the table; "
            '"seen from" is the true difference that this many seeds with this spread show in four cases of five. A '
            "smaller one may exist without being seen."
        )
    return lines


#: Below the slices by client.
PER_CLIENT = (
    "Per client: accuracy of the test rows weighted by the labels of the client's own rows and shown with what those "
    "show; for Local, of the client's own adapter."
)
