"""What a report says of modalities: how many were missing, what each says alone, when they were stood in for."""

from __future__ import annotations

from fs_fedmllm.data.sample import MODALITIES
from fs_fedmllm.evaluation.views import EXPLAINED, VIEWS, plainly
from fs_fedmllm.runs.decisions import spans
from fs_fedmllm.scenarios.rates import in_no_row
from fs_fedmllm.tools.report.cells import MINUS
from fs_fedmllm.tools.report.finished import Run
from fs_fedmllm.tools.report.grids import Cell, Grid
from fs_fedmllm.tools.report.runs import Sheet


def missing_rates(sheet: Sheet) -> list[Grid]:
    """Nominal and measured missing rates of the runs' splits; empty where nothing was missing or nobody measured.

    Runs of one data set at one nominal level make a row, called by the axis values that they have in common; what was
    measured is the mean over their different splits.
    """
    groups: dict[str, list[tuple[dict[str, str], Run]]] = {}
    for place, runs in sheet.runs.items():
        for run in runs:
            rates = run.results.get("missing_rates")
            if rates and any((*rates["nominal"].values(), *rates["measured"].values())):
                key = [run.results.get("dataset"), run.results.get("scenario"), rates["nominal"]]
                groups.setdefault(str(key), []).append((dict(place), run))
    body = []
    for own in groups.values():
        common = {name: value for name, value in own[0][0].items() if all(p[name] == value for p, _ in own)}
        splits = {run.results.get("manifest_sha256"): run.results["missing_rates"] for _, run in own}
        cells = []
        for name in MODALITIES:
            nominal = next(iter(splits.values()))["nominal"].get(name)
            measured = [rates["measured"][name] for rates in splits.values() if name in rates["measured"]]
            cells.append(Cell("not known" if nominal is None else f"{100 * nominal:.1f} %"))
            if all(in_no_row(name, run.results["missing_rates"]["measured"], _tested(run)) for _, run in own):
                cells.append(Cell("in no row"))
            else:
                cells.append(Cell(f"{100 * sum(measured) / len(measured):.1f} %" if measured else "–"))
        body.append((sheet.title(common) or "all runs", cells))
    head = [f"{name}, {kind}" for name in MODALITIES for kind in ("nominal", "measured")]
    return [Grid("Missing modalities, nominal and measured", head, body)] if body else []


def _tested(run: Run) -> dict[str, int]:
    """Test rows by what they show."""
    return dict((run.results.get("test_rows") or {}).get("presence") or {})


def views_of(sheet: Sheet) -> list[Grid]:
    """Joint, product of views, image only, text only: accuracy in per cent, means over the seeds, for each column.

    The difference of product and joint is named by what the runs' own intervals agree on.
    """
    grids: list[Grid] = []
    for column in sheet.columns():
        body = []
        for row in sheet.rows():
            runs = [] if sheet.table.place(row) == "zero_shot" else sheet.at({**row, **column})
            found = [run.results["views"] for run in runs if run.results.get("views")]
            if not found:
                continue
            mean = {view: sum(own[view]["acc"] for own in found) / len(found) for view in VIEWS}
            gap = sum(own["gap"]["acc"] for own in found) / len(found)
            meant = {own["gap"]["means"] for own in found}
            cells = [Cell(f"{100 * mean[view]:.1f}") for view in VIEWS]
            said = plainly(next(iter(meant))) if len(meant) == 1 else "not the same in all runs"
            cells.append(Cell(f"{100 * gap:+.1f}".replace("-", MINUS), (said,)))
            body.append((sheet.title(row), cells))
        if body:
            heads = ["joint", "product of views", "image only", "text only", "product minus joint"]
            title = sheet.title(column)
            named = f"Views of the same rows, accuracy{f': {title}' if title else ''}"
            grids.append(Grid(named, heads, body, "" if grids else EXPLAINED))
    return grids


def decisions_of(sheet: Sheet) -> list[Grid]:
    """When a modality was stood in for, a row for each run that has stand-ins."""
    body = []
    for place, runs in sheet.runs.items():
        for run in runs:
            if decisions := run.results.get("stand_ins"):
                cells = [Cell(spans(decisions, kind)) for kind in MODALITIES]
                body.append((f"{sheet.title(dict(place))} seed {run.seed}".strip(), cells))
    return [Grid("Stand-ins, by round", ["for images", "for texts"], body)] if body else []
