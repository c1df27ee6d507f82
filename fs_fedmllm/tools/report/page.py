"""A report's content, laid out once and written as HTML, Markdown and CSV."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from fs_fedmllm.errors import printable
from fs_fedmllm.files.atomic import write_atomically
from fs_fedmllm.tools.report.content import PER_CLIENT, Content, content_of, explanation
from fs_fedmllm.tools.report.grids import Grid
from fs_fedmllm.tools.report.runs import Sheet
from fs_fedmllm.tools.report.templates import rendered
from fs_fedmllm.tools.sweeps.figures_file import figures_csv
from fs_fedmllm.tools.sweeps.figures_line import axis_column
from fs_fedmllm.version import VERSION


def html(content: Content) -> str:
    """The page: one file, no network."""
    read = [*explanation(content), *([PER_CLIENT] if content.clients else [])]
    return rendered(
        "report.html.j2", content=content, sheet=content.sheet, table=content.sheet.table, explanation=read,
        version=VERSION, columns=list(content.sources[0]) if content.sources else [],
    )  # fmt: skip


def _escaped(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    text = printable(" ".join(text.split("\n")))
    for sign in ("\\", "|", "<", ">", "*", "_", "`", "[", "]"):
        text = text.replace(sign, "\\" + sign if sign not in "<>" else {"<": "&lt;", ">": "&gt;"}[sign])
    return text


def markdown(content: Content, *, slices: bool = True) -> str:
    """The tables as Markdown."""
    sheet = content.sheet
    lines = [f"# {_escaped(sheet.table.title)}", ""]
    if sheet.tiny:
        lines += ["**Made with `--tiny`: embedded model and data, a few steps. The figures mean nothing.**", ""]
    if sheet.table.about:
        lines += ["\n".join(map(_escaped, sheet.table.about.split("\n"))), ""]
    lines += [f"{sheet.finished} of {sheet.wanted} runs finished. {' '.join(explanation(content))}", ""]
    if sheet.table.source:
        lines += [f"The paper's figures: {_escaped(sheet.table.source)}.", ""]
    if content.models:
        lines += [f"Model: {_escaped(', '.join(content.models))}.", ""]
    for grid in (*content.tables, *content.seeds, *content.elsewhere, *content.missing, *content.facts):
        lines += [*_grid(grid, with_lines=True), ""]
    lines += [f"- {_escaped(note)}" for note in content.notes]
    if slices:
        for title, grids in (("F1 by class", content.classes), ("Accuracy by client", content.clients)):
            for grid in grids:
                named = Grid(f"{title}: {grid.title}" if grid.title else title, grid.head, grid.rows)
                lines += ["", *_grid(named, with_lines=False)]
    commits = sorted({f"{s['version']}, {s['profile']}, {s['commit']}" for s in content.sources})
    lines += ["", "Made by (version, profile, commit): " + "; ".join(map(_escaped, commits)) + "."]
    return "\n".join(lines) + "\n"


def _grid(grid: Grid, *, with_lines: bool) -> list[str]:
    lines = [f"## {_escaped(grid.title)}", "", "| | " + " | ".join(map(_escaped, grid.head)) + " |",
             "|---|" + "---|" * len(grid.head)]  # fmt: skip
    for title, cells in grid.rows:
        texts = [
            "<br>".join([_escaped(cell.figure), *(map(_escaped, cell.lines) if with_lines else ())]) for cell in cells
        ]
        lines.append(f"| {_escaped(title)} | " + " | ".join(texts) + " |")
    return [*lines, "", _escaped(grid.note)] if grid.note else lines


def rows_csv(sheet: Sheet) -> str:
    """One line for every run and metric."""
    return figures_csv(sheet.table, _rows(sheet))


def _rows(sheet: Sheet) -> Iterator[dict[str, object]]:
    for row in sheet.rows():
        for column in sheet.columns():
            place = {**row, **column}
            for metric in sheet.table.metrics_at(place):
                at = sheet.table.place(place)
                paper = sheet.table.reported(place, metric)
                for run in sheet.at(place):
                    value = run.value(metric.name, at)
                    yield {
                        **{axis_column(axis.name): place[axis.name] for axis in sheet.table.axes},
                        "seed": run.seed,
                        "metric": metric.name,
                        "value": value * metric.scale if value is not None else None,
                        "at": at,
                        "scale": metric.scale,
                        "paper_mean": paper.mean if paper is not None else None,
                        "paper_std": paper.std if paper is not None else None,
                        **run.made_by,
                    }


def write_report(sheet: Sheet, out: Path, *, pictures: bool = True) -> list[Path]:
    """Write ``report.html``, ``report.md`` and ``report.csv``.

    Args:
        sheet: what it is of.
        out: folder, made if it is not there.
        pictures: draw the curves (needs matplotlib).
    """
    content = content_of(sheet, pictures=pictures)
    texts = {"report.html": html(content), "report.md": markdown(content), "report.csv": rows_csv(sheet)}
    out.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        write_atomically(out / name, text.encode())
    return [out / name for name in texts]
