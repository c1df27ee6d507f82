"""Learning curves as SVG that goes into a page: it takes the page's text colour, light or dark."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fs_fedmllm.tools.report.canvas import as_drawn, count_axis, pyplot
from fs_fedmllm.tools.report.finished import Run

#: Told apart on white and on near-black; after the last the lines are dashed.
COLOURS = ("#3b82f6", "#e8590c", "#2b9a66", "#d6336c", "#9065e0", "#0e9aa7", "#c98a04", "#7f8c99", "#b5651d",
           "#6b9e1f")  # fmt: skip
DASHES = ("", "6 3", "2 2")
_MPL_DASHES: tuple[object, ...] = ("solid", (0, (4, 2)), (0, (1.2, 1.2)))
#: Stands for the page's text colour until the picture is done.
_INK = "#010203"


@dataclass(frozen=True)
class Line:
    """A line of a picture: round -> value of each run, and its place in the order of colours."""

    title: str
    index: int
    runs: Sequence[Mapping[int, float]]


def colour(index: int) -> tuple[str, str]:
    """(colour, SVG dash pattern) of a row."""
    return COLOURS[index % len(COLOURS)], DASHES[(index // len(COLOURS)) % len(DASHES)]


def lines_of(rows: Sequence[tuple[str, int, Sequence[Run]]], figure: str) -> list[Line]:
    """The rows that have the figure; a penalty that is 0 in every turn is switched off, and is no line."""
    lines = [Line(title, index, [run.curve(figure) for run in runs]) for title, index, runs in rows]
    if figure == "penalty":
        return [line for line in lines if any(value for run in line.runs for value in run.values())]
    return [line for line in lines if any(line.runs)]


def draw(lines: Sequence[Line], label: str, prefix: str) -> str:
    """An SVG element: for each line the mean over its runs, and a band from the lowest to the highest.

    Args:
        lines: what to draw.
        label: of the vertical axis.
        prefix: of the element's ids, unique within a page.
    """
    plt = pyplot()
    style = {
        "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 11, "text.color": _INK,
        "axes.edgecolor": _INK, "axes.labelcolor": _INK, "xtick.color": _INK, "ytick.color": _INK,
        "axes.spines.top": False, "axes.spines.right": False, "axes.facecolor": "none",
    }  # fmt: skip
    with plt.rc_context(style):
        figure, axes = plt.subplots(figsize=(5.4, 3.3), layout="constrained")
        figure.patch.set_alpha(0)
        for line in lines:
            shade, _ = colour(line.index)
            dash = _MPL_DASHES[(line.index // len(COLOURS)) % len(_MPL_DASHES)]
            places = sorted({place for run in line.runs for place in run})
            groups = [[run[place] for run in line.runs if place in run] for place in places]
            means = [sum(values) / len(values) for values in groups]
            axes.plot(places, means, color=shade, linestyle=dash, linewidth=1.6,
                      marker="o" if len(places) < 12 else None, markersize=3)  # fmt: skip
            if any(len(values) > 1 for values in groups):
                axes.fill_between(places, [min(v) for v in groups], [max(v) for v in groups], color=shade, alpha=0.12,
                                  linewidth=0)  # fmt: skip
        axes.set(xlabel="round", ylabel=as_drawn(label))
        count_axis(axes.xaxis)
        heights = [value for line in lines for run in line.runs for value in run.values() if math.isfinite(value)]
        if heights and 0 < 100 * min(heights) < max(heights):  # one line runs away; the others stay readable
            axes.set_yscale("log")
        axes.grid(color=_INK, alpha=0.12, linewidth=0.6)
        drawn = io.StringIO()
        figure.savefig(drawn, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        plt.close(figure)
    return _inline(drawn.getvalue(), label, prefix)


def _inline(text: str, label: str, prefix: str) -> str:
    """The element alone, with ids of its own, the page's text colour and a name for screen readers."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="([^"]*)"', rf'id="{prefix}-\1"', text)
    text = re.sub(r"url\(#([^)]*)\)", rf"url(#{prefix}-\1)", text)
    text = re.sub(r'xlink:href="#([^"]*)"', rf'href="#{prefix}-\1"', text)
    text = text.replace(_INK, "currentColor")
    head, body = text.split(">", 1)
    head = re.sub(r' (width|height)="[^"]*"', "", head)  # the page says how wide
    name = re.sub(r"[^\w .,()-]", " ", label)
    return f'{head} role="img" aria-label="{name} over the rounds">{body}'
