"""Figures as a report's tables write them."""

from __future__ import annotations

from fs_fedmllm.tools.report.figures import Entry
from fs_fedmllm.tools.report.grids import Cell
from fs_fedmllm.tools.sweeps.table import Metric

MINUS = "−"


def number(value: float, metric: Metric, *, signed: bool = False) -> str:
    """A figure in the table's unit, with a true minus sign and no negative zero."""
    rounded = round(value * metric.scale, metric.decimals) + 0.0
    return f"{rounded:{'+' if signed else ''}.{metric.decimals}f}".replace("-", MINUS)


def difference(value: float, low: float, high: float, metric: Metric) -> str:
    """A difference with its interval, each with its sign."""
    mean, least, most = (number(figure, metric, signed=True) for figure in (value, low, high))
    return f"{mean} [{least}, {most}]"


def said_p(p_value: float) -> str:
    """A p-value with three decimals, or that it is below all of them."""
    return f"p {p_value:.3f}".replace("p 0.000", "p < 0.001")


def cell_of(entry: Entry, metric: Metric) -> Cell:
    """An entry as text."""
    after = ", ".join(str(count) for count in sorted(entry.diverged))
    lacking = f"{entry.lacking} that {'has' if entry.lacking == 1 else 'have'} no such figure"
    if entry.spread is None:
        lines = [_reported(entry, metric)] if entry.paper is not None else []
        if entry.diverged:
            return Cell("diverged", (f"after {after} rounds", *([f"and {lacking}"] if entry.lacking else []), *lines))
        return Cell("–", tuple(lines))
    figure = number(entry.spread.mean, metric)
    if entry.spread.std is not None:
        figure += f" ± {number(entry.spread.std, metric)}"
    lines = [f"without {len(entry.diverged)} that diverged after {after} rounds"] if entry.diverged else []
    if entry.lacking:
        lines.append(f"without {lacking}")
    if entry.interval is not None:
        lines.append(f"[{number(entry.interval.low, metric)}, {number(entry.interval.high, metric)}]")
    if entry.paper is not None:
        ours = entry.spread.mean * metric.scale
        apart = f"{ours - entry.paper.mean:+.{metric.decimals}f}".replace("-", MINUS)
        lines.append(f"{_reported(entry, metric)}, ours {apart}")
    if entry.versus is not None:
        own = entry.versus.interval
        p_value = entry.p_adjusted if entry.p_adjusted is not None else entry.versus.p_value
        lines.append(f"Δ {difference(own.value, own.low, own.high, metric)}, {said_p(p_value)}")
    return Cell(figure, tuple(lines))


def _reported(entry: Entry, metric: Metric) -> str:
    assert entry.paper is not None
    places = max(metric.decimals, 2)
    spread = f" ± {entry.paper.std:.{places}f}" if entry.paper.std is not None else ""
    return f"paper {entry.paper.mean:.{places}f}{spread}"
