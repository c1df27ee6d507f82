"""The tables of one external validation, as text and as a page in the report's style."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fs_fedmllm.data.client_names import shown_name
from fs_fedmllm.evaluation.views import EXPLAINED, said_views
from fs_fedmllm.text_columns import aligned, capital
from fs_fedmllm.tools.adapters.trained_rows import TrainedOn
from fs_fedmllm.tools.report.grids import Cell, Grid
from fs_fedmllm.tools.report.templates import rendered

#: Views of the rows, as the metrics' names begin, and what they are called.
VIEWS = {"": "as they are", "image_": "image only", "text_": "text only"}
#: Metrics that are no share of the rows.
_PLAIN = ("loss",)


def shown(name: str, value: float) -> str:
    """A figure: losses as they are, everything else in percent."""
    return f"{value:.4f}" if name.endswith(_PLAIN) else f"{100 * value:.1f}"


def said_rows(data: Mapping[str, Any]) -> str:
    """How many rows, of how many, and what they show, in a sentence.

    Args:
        data: of the document.
    """
    case = {"both": "show both", "image": "image only", "text": "text only", "neither": "neither"}
    listed = ", ".join(f"{count:,} {case.get(name, name)}" for name, count in data["presence"].items())
    limited = f" of {data['all']:,} (fedmllm.eval.limit {data['limit']:,})" if data["rows"] < data["all"] else ""
    return f"{data['rows']:,}{limited} {data['split']} rows of {data['called']}: {listed}"


def grids_of(document: Mapping[str, Any]) -> Iterator[Grid]:
    """The tables, in their order."""
    yield _metrics(document)
    for key, values in document["slices"].items():
        if len(values) > 1:
            rows = [(name, [Cell(f"{own['rows']:,.0f}"), _with_interval("acc", own, {"acc": own})])
                    for name, own in values.items()]  # fmt: skip
            yield Grid(f"Accuracy by {key}", ["rows", "acc"], rows)
    if document["classes"]:
        head = ["precision", "recall", "f1", "support"]
        rows = [(name, [_of_class(own, figure) for figure in head]) for name, own in document["classes"].items()]
        yield Grid("Classes", head, rows)
    if table := document["confusion"]:
        rows = [
            (name, [Cell(f"{count:,}") for count in counts])
            for name, counts in zip(table["options"], table["counts"], strict=True)
        ]
        yield Grid("Confusion matrix (rows: the label, columns: the decision)", table["columns"], rows)
    if found := document["calibration"]:
        rows = [
            (
                f"{own['low']:.1f} to {own['high']:.1f}",
                [Cell(f"{own['rows']:,}"), Cell(shown("", own["confidence"])), Cell(shown("", own["acc"]))],
            )
            for own in found["bins"]
        ]
        yield Grid("Calibration (rows by the probability of the decision)", ["rows", "confidence", "acc"], rows)


def _of_class(own: Mapping[str, float], figure: str) -> Cell:
    """What is undefined (the recall of a class that no row has) is no number."""
    if figure not in own:
        return Cell("–")
    return Cell(f"{own[figure]:,.0f}" if figure == "support" else shown(figure, own[figure]))


def _metrics(document: Mapping[str, Any]) -> Grid:
    figures, intervals = document["figures"], document["intervals"]
    counted = [name for name in figures if not name.endswith("total")]
    names = [name for name in counted if not name.startswith(("image_", "text_"))]
    views = {prefix: title for prefix, title in VIEWS.items() if any(f"{prefix}{name}" in figures for name in names)}
    rows = []
    for name in names:
        cells = [_with_interval(f"{prefix}{name}", figures, intervals) for prefix in views]
        rows.append((name.replace("_", " "), cells))
    return Grid("Metrics", list(views.values()), rows)


def _with_interval(name: str, figures: Mapping[str, float], intervals: Mapping[str, Mapping[str, float]]) -> Cell:
    if name not in figures:
        return Cell("–")
    own = intervals.get(name, {})
    lines = (f"[{shown(name, own['low'])}, {shown(name, own['high'])}]",) if "low" in own else ()
    return Cell(shown(name, figures[name]), lines)


def notes_of(document: Mapping[str, Any]) -> list[str]:
    """How the figures are to be read."""
    notes = [
        "In percent, but for losses. In brackets: 95 % bootstrap interval over the rows that were evaluated; rows "
        "that belong together (keep_together of data.splitter_args, else together of the split) are resampled "
        "together.",
    ]
    if document["calibration"]:
        notes.append(
            "ece: expected calibration error, the mean distance between the probability of the decision and the share "
            "of right decisions, in ten bins of equal width. The probabilities are over the options alone."
        )
    if document["views"]:
        notes += [*said_views(document["views"]).splitlines(), EXPLAINED]
    if document["taken_over"]:
        notes.append(f"{capital(said_taken(document['taken_over']))}.")
    trained = TrainedOn(**document["trained_on"])
    if not trained.any:
        notes.append(f"{capital(trained.said())}.")
    if document["shortened_rows"]:
        notes.append(f"{document['shortened_rows']:,} rows were too long, and their texts were shortened.")
    notes.append(
        f"Adapter {document['adapter_sha256'][:12]}, base {document['base']}, prompts {document['template']} "
        f"({document['prompt']}), rows {document['data']['content_sha256'][:12]}, fs-fedmllm {document['version']}."
    )
    return notes


def said_taken(taken: Mapping[str, Any]) -> str:
    """In one line; empty where nothing is taken over.

    Args:
        taken: ``taken_over`` of the document.
    """
    parts = []
    for name, value in taken.items():
        if isinstance(value, Mapping):
            value = ", ".join(f"{own}: {column or 'none'}" for own, column in value.items())
        elif isinstance(value, list | tuple):
            value = ", ".join(map(str, value))
        parts.append(f"{name} {value}")
    return f"taken from the adapter's run, since nothing else was given: {'; '.join(parts)}" if parts else ""


def warnings_of(document: Mapping[str, Any]) -> list[str]:
    """What makes the figures mean less than they seem to."""
    data, found = document["data"], []
    trained = document["trained_on"]
    if "unknown" not in trained and (trained["rows"] or trained["image_rows"]):
        found.append(f"{capital(TrainedOn(**trained).said())}.")
    elif data["split"] == "train":
        found.append(
            "These are training rows of their data set: if the adapter was trained on them, this is not a test."
        )
    if data["rows"] < data["all"]:
        found.append(f"{data['rows']:,} of {data['all']:,} rows were evaluated (fedmllm.eval.limit).")
    if document["trained_with"] not in (None, document["template"]):
        found.append(
            f"The adapter was trained with the prompts {document['trained_with']}, these rows ask those of "
            f"{document['template']}."
        )
    if document["combine"] == "product":
        found.append(
            "The adapter is meant to be asked for the product of what image and text say alone "
            "(fedmllm.predict.combine); the metrics are those of the joint prompt, and the product is in the notes."
        )
    if form := document["out_of_form"]:
        found.append(f"{form['rows']} of {form['of']} answers do not have the form asked for.")
    return found


#: Characters of a label in a table of plain text.
_WIDEST = 80


def text(document: Mapping[str, Any]) -> str:
    """The tables as plain text."""
    lines = [said_rows(document["data"]), *warnings_of(document)]
    for grid in grids_of(document):
        head = ["", *[shown_name(name, _WIDEST) for name in grid.head]]
        rows = [[shown_name(title, _WIDEST), *[" ".join((cell.figure, *cell.lines)) for cell in cells]]
                for title, cells in grid.rows]  # fmt: skip
        lines += ["", grid.title, *aligned([head, *rows])]
    return "\n".join([*lines, "", *notes_of(document)])


def html(document: Mapping[str, Any]) -> str:
    """The page: one file, no network."""
    grids = list(grids_of(document))
    pictures = {i: reliability(document["calibration"]) for i, g in enumerate(grids) if g.title.startswith("Calibra")}
    return rendered(
        "evaluation.html.j2",
        title=f"{document['adapter']} on {document['data']['called']}", about=f"{said_rows(document['data'])}.",
        warnings=warnings_of(document), grids=grids, pictures=pictures, notes=notes_of(document),
    )  # fmt: skip


def reliability(found: Mapping[str, Any]) -> str:
    """The reliability diagram as an SVG element: a bar for each bin, the diagonal for a calibrated model.

    Args:
        found: ``calibration`` of the document.
    """
    side, margin = 240, 34
    parts = [
        f'<svg viewBox="0 0 {side + 2 * margin} {side + 2 * margin}" role="img" style="max-width: 24rem" '
        'aria-label="Share of right decisions over their probability">'
    ]
    for own in found["bins"]:
        x, height = margin + side * own["low"], side * own["acc"]
        parts.append(
            f'<rect x="{x:.1f}" y="{margin + side - height:.1f}" width="{side * (own["high"] - own["low"]):.1f}" '
            f'height="{height:.1f}" fill="#3b82f6" fill-opacity="0.75" stroke="currentColor" stroke-width="0.5"/>'
        )
    low, high = margin, margin + side
    parts += [
        f'<path d="M{low} {high}H{high}M{low} {high}V{low}" stroke="currentColor" fill="none"/>',
        f'<path d="M{low} {high}L{high} {low}" stroke="currentColor" stroke-dasharray="4 3" fill="none"/>',
        f'<text x="{low + side / 2}" y="{high + 26}" text-anchor="middle" fill="currentColor" font-size="11">'
        "probability of the decision</text>",
        f'<text x="{low}" y="{low - 8}" fill="currentColor" font-size="11">share of right decisions</text>',
    ]
    for tick in (0, 0.5, 1):
        parts.append(
            f'<text x="{low + side * tick}" y="{high + 13}" text-anchor="middle" fill="currentColor" font-size="10">'
            f"{tick:g}</text>"
        )
        parts.append(
            f'<text x="{low - 5}" y="{high - side * tick + 3}" text-anchor="end" fill="currentColor" font-size="10">'
            f"{tick:g}</text>"
        )
    return "".join([*parts, "</svg>"])
