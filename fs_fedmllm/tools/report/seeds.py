"""What a report says of differences between methods: over seeds, not over the rows that were tested.

A difference of two runs on the same rows says how much it owes to the choice of test rows. Whether a method is better
is a question about its runs, and those are its seeds: pairs of runs with the same seed, hence the same split, draw of
clients and first adapter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fs_fedmllm.evaluation.seed_statistics import SeedDifference, paired_over_seeds
from fs_fedmllm.tools.report.cells import difference, number, said_p
from fs_fedmllm.tools.report.figures import baseline_of, column_metrics, holm
from fs_fedmllm.tools.report.finished import Run
from fs_fedmllm.tools.report.grids import Cell, Grid
from fs_fedmllm.tools.report.runs import Sheet
from fs_fedmllm.tools.sweeps.table import Metric


@dataclass(frozen=True)
class Claim:
    """A row against the baseline in one column.

    Attributes:
        row, column: places, counted from 0 among the sheet's.
        metric: what is compared.
        difference: over the seeds that both have.
        p_adjusted: its p-value after Holm's correction for all claims of the table.
    """

    row: int
    column: int
    metric: Metric
    difference: SeedDifference
    p_adjusted: float


def claims(sheet: Sheet) -> list[Claim]:
    """Every row against the baseline, by the table's first metric; empty where no two seeds are shared."""
    base_row = baseline_of(sheet)
    found: list[tuple[int, int, Metric, SeedDifference]] = []
    for j, column in enumerate(sheet.columns()):
        metric = column_metrics(sheet, column)[0]
        base = _by_seed(sheet, base_row, column, metric)
        for i, row in enumerate(sheet.rows()):
            own = {} if row == base_row else _by_seed(sheet, row, column, metric)
            both = sorted(own.keys() & base.keys())
            if len(both) > 1:
                paired = paired_over_seeds([own[seed] for seed in both], [base[seed] for seed in both])
                found.append((i, j, metric, paired))
    adjusted = holm([paired.p_value for *_, paired in found])
    return [Claim(*claim, p_adjusted) for claim, p_adjusted in zip(found, adjusted, strict=True)]


def _by_seed(sheet: Sheet, row: Mapping[str, str], column: Mapping[str, str], metric: Metric) -> dict[int, float]:
    """Seed -> the figure after the last round; runs that diverged have none, nor has what is read off elsewhere."""
    place = {**row, **column}
    if sheet.table.place(place) != "last":
        return {}
    runs: dict[int, Run] = {run.seed: run for run in sheet.at(place) if run.diverged is None}
    values = {seed: run.value(metric.name, "last") for seed, run in runs.items()}
    return {seed: value for seed, value in values.items() if value is not None}


def seed_grids(sheet: Sheet) -> list[Grid]:
    """The first metric's differences to the baseline, paired by seed; empty where there are none."""
    found = claims(sheet)
    if not found:
        return []
    places = {(claim.row, claim.column): claim for claim in found}
    rows, columns = sheet.rows(), sorted({claim.column for claim in found})
    body = [
        (sheet.title(rows[i]), [_cell(places.get((i, j)), len(found)) for j in columns])
        for i in sorted({claim.row for claim in found})
    ]
    head = [sheet.title(sheet.columns()[j]) or found[0].metric.title for j in columns]
    title = f"{found[0].metric.title}, difference to {sheet.title(baseline_of(sheet))} over seeds"
    return [Grid(title, head, body)]


def _cell(claim: Claim | None, family: int) -> Cell:
    if claim is None:
        return Cell("–")
    own, metric = claim.difference, claim.metric
    return Cell(
        difference(own.mean, own.low, own.high, metric),
        (f"{own.seeds} seeds, {said_p(claim.p_adjusted)} of {family}", f"seen from {number(own.detectable, metric)}"),
    )
