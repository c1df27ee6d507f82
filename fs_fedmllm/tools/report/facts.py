"""What stands beside the figures of runs side by side: in what they differ, what they cost, who held what."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fs_fedmllm.config.host_reading import leaves
from fs_fedmllm.data.client_names import called
from fs_fedmllm.data.sample import CASES
from fs_fedmllm.files.untrusted import object_if_any
from fs_fedmllm.runs.amounts import said_bytes
from fs_fedmllm.text_columns import cut
from fs_fedmllm.tools.report.finished import Run
from fs_fedmllm.tools.report.grids import Cell, Grid
from fs_fedmllm.tools.report.runs import Sheet

#: Where a run lies, and with what processes it ran: no part of what it is.
_PLACES = ("outdir", "expname", "fedmllm.workers", "fedmllm.threads")
#: Characters of a value that a table has room for.
_WIDE = 60


def facts_of(sheet: Sheet) -> list[Grid]:
    """The tables, for runs that were named one by one; a sweep's axes say in what its runs differ."""
    if sheet.table.name != "runs":
        return []
    rows = [(sheet.title(dict(place)), runs) for place, runs in sheet.runs.items() if runs]
    return [*_differences(rows), *_test_rows(rows), *_costs(rows), *_holders(rows)]


def _differences(rows: Sequence[tuple[str, Sequence[Run]]]) -> Iterator[Grid]:
    """A row for each setting that not all have alike; seeds of one row are together."""
    if len(rows) < 2:
        return
    settings = [dict(leaves(runs[0].config)) for _, runs in rows]
    names = sorted({name for own in settings for name in own} - {*_PLACES, "seed"})
    body = []
    for name in names:
        values = [_value(own.get(name)) if name in own else "–" for own in settings]
        if len(set(values)) > 1:
            body.append((name, [Cell(value) for value in values]))
    seeds = [", ".join(str(run.seed) for run in runs) for _, runs in rows]
    if len(set(seeds)) > 1:
        body.append(("seed", [Cell(value) for value in seeds]))
    if body:
        yield Grid("In what the runs differ", [title for title, _ in rows], body)


def _value(value: Any) -> str:
    return cut(value if isinstance(value, str) else json.dumps(value, default=str), _WIDE)


def _test_rows(rows: Sequence[tuple[str, Sequence[Run]]]) -> Iterator[Grid]:
    body = []
    for title, runs in rows:
        counted = runs[0].results.get("test_rows")
        if isinstance(counted, Mapping):
            shown = counted.get("presence") or {}
            limited = ("fedmllm.eval.limit",) if counted["evaluated"] < counted["all"] else ()
            cells = [Cell(f"{counted['evaluated']:,}", limited), Cell(f"{counted['all']:,}")]
            body.append((title, [*cells, *(Cell(f"{shown.get(case, 0):,}") for case in CASES)]))
    if body:
        yield Grid("Test rows, and what they show", ["evaluated", "of", *CASES], body)


def _costs(rows: Sequence[tuple[str, Sequence[Run]]]) -> Iterator[Grid]:
    body = []
    for title, runs in rows:
        results = runs[0].results
        seconds, sent = results.get("seconds") or {}, results.get("bytes_sent")
        if not isinstance(sent, int | float):
            continue
        times = [seconds.get(name) for name in ("total", "training", "evaluation")]
        cells = [Cell(f"{value:,.0f} s" if isinstance(value, int | float) else "–") for value in times]
        size = results.get("adapter_bytes")
        told = [Cell(str(results.get("rounds", "–"))), *cells, Cell(said_bytes(sent))]
        body.append((title, [*told, Cell(said_bytes(size) if isinstance(size, int | float) else "–")]))
    if body:
        yield Grid("Time and bytes", ["rounds", "time", "training", "evaluation", "bytes sent", "adapter"], body)


def _holders(rows: Sequence[tuple[str, Sequence[Run]]]) -> Iterator[Grid]:
    """Rows of each client by what they show, a table for every different split."""
    splits: dict[str, tuple[list[str], Mapping[str, Any]]] = {}
    for title, runs in rows:
        for run in runs[:1]:
            manifest: Mapping[str, Any] = object_if_any(run.folder / "manifest.json")
            if manifest.get("clients"):
                splits.setdefault(str(manifest.get("sha256", run.folder)), ([], manifest))[0].append(title)
    for titles, manifest in splits.values():
        body = []
        for client, record in sorted(manifest["clients"].items(), key=lambda item: int(item[0])):
            shown = record.get("presence") or {}
            name = called(int(client), {int(client): str(record.get("name") or "")})
            total = sum(shown.values())
            body.append((name, [Cell(f"{total:,}"), *(Cell(f"{shown.get(case, 0):,}") for case in CASES)]))
        of = "" if len(splits) == 1 else f": {', '.join(titles)}"
        yield Grid(f"Who holds which modality{of}", ["rows", *CASES], body)
