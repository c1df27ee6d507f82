"""Pictures say what the numbers are: axes that count have whole ticks, and a term that is off has no panel."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("matplotlib", reason="plots need the extra 'plot'")

from fs_fedmllm.tools.report import curves, plots
from fs_fedmllm.tools.report.finished import Run


def axes_drawn(monkeypatch: pytest.MonkeyPatch, draw: Any) -> Any:
    """The axes of what ``draw`` draws."""
    kept: list[Any] = []
    monkeypatch.setattr(plots, "save", lambda plt, figure, path: kept.append((plt, figure)) or [])
    draw()
    (plt, figure), *_ = kept
    figure.canvas.draw()
    plt.close(figure)
    return figure.axes[0]


def ticks(axis: Any) -> list[tuple[float, str]]:
    low, high = sorted(axis.get_view_interval())
    return [
        (place, text.get_text())
        for place, text in zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=True)
        if low <= place <= high
    ]


@pytest.mark.parametrize("rows", [1, 2, 3, 7, 18, 26, 1037, 250_000])
def test_a_count_stands_over_the_tick_of_its_number(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    counts = {1: Counter(a=rows), 2: Counter(a=max(1, rows // 2))}
    split = {"train": Counter(a=rows, b=1)}
    upright = axes_drawn(monkeypatch, lambda: plots.draw_counts(counts, "t", Path("x"), order=["a"]))
    lying = axes_drawn(monkeypatch, lambda: plots.draw_bars(split, "t", Path("x")))
    for axis in (upright.yaxis, lying.xaxis):
        found = ticks(axis)
        assert len(found) >= 2 and [f"{place:,.10g}".replace(",", "") for place, _ in found] == [
            text.replace(",", "") for _, text in found
        ]


@pytest.mark.parametrize("rounds", [1, 2, 3, 5, 40])
def test_rounds_are_whole_numbers_on_a_curve(rounds: int) -> None:
    line = curves.Line("a", 0, [{place: 1.0 / place for place in range(1, rounds + 1)}])
    svg = curves.draw([line], "loss", "c")
    under = svg[svg.index('id="c-matplotlib.axis_1"') : svg.index('id="c-matplotlib.axis_2"')]
    shown = re.findall(r"<text[^>]*>([^<]*)</text>", under)
    assert shown and all(re.fullmatch(r"[0-9,−-]+|round", text) for text in shown), shown


def test_a_grid_has_a_client_each_and_every_count_in_its_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    grids = {
        client: Counter({("yes", "image and text"): 10 * client, ("no", "text only"): client})
        for client in range(1, 8)
    }
    kept: list[Any] = []
    monkeypatch.setattr(plots, "save", lambda plt, figure, path: kept.append((plt, figure)) or [])
    plots.draw_grids(grids, "t", Path("x"), order=["yes", "no", "never"])
    (plt, figure), *_ = kept
    figure.canvas.draw()
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title() for axes in shown] == [f"client {client}: {11 * client}" for client in range(1, 8)]
    for client, axes in enumerate(shown, 1):
        found = {(text.get_position(), text.get_text()) for text in axes.texts}
        assert found == {((0, 0), str(10 * client)), ((1, 1), str(client))}  # column: what it shows; row: the label
    named = {tuple(text.get_text() for text in axes.get_yticklabels()) for axes in shown}
    assert ("yes", "no", "never") in named  # a label that nobody has keeps its row
    lowest = [axes for axes in shown if any(text.get_text() for text in axes.get_xticklabels())]
    assert len(lowest) == plots.ACROSS  # the last of each column says what its columns are
    plt.close(figure)


def test_labels_are_drawn_as_they_are_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dollar begins no formula, an underscore hides nothing, and a line break or an escape is no such."""
    labels = ["costs $5 or $x^{", "_other", "two\nlines", "red \x1b[31m", "<b>&"]
    counts = {1: Counter(dict.fromkeys(labels, 2))}
    kept: list[Any] = []
    monkeypatch.setattr(plots, "save", lambda plt, figure, path: kept.append((plt, figure)) or [])
    plots.draw_counts(counts, "$a_{$", Path("x"), order=labels)
    plots.draw_grids({1: Counter(dict.fromkeys(((label, "text only") for label in labels), 2))}, "$", Path("x"),
                     order=labels)  # fmt: skip
    plots.draw_bars({"test$_": counts[1]}, "$", Path("x"))
    for plt, figure in kept:
        figure.canvas.draw()
        plt.close(figure)
    said = [text.get_text() for text in kept[0][1].legends[0].get_texts()]
    assert said == [r"costs \$5 or \$x^{", " _other", "two lines", r"red \x1b[31m", "<b>&"]
    svg = curves.draw([curves.Line("a", 0, [{1: 1.0, 2: 2.0}])], "<script>$^{", "c")
    assert "<script>" not in svg and "$^{" in svg


def run(folder: Path, penalty: float) -> Run:
    folder.mkdir()
    turn = {"kind": "turn", "client": 1, "loss": 1.0}
    lines = [{**turn, "round": index, "penalty": penalty * index} for index in range(3)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return Run(folder, 0, {})


def test_a_penalty_that_is_off_is_not_drawn(tmp_path: Path) -> None:
    off, on = run(tmp_path / "off", 0.0), run(tmp_path / "on", 0.5)
    assert curves.lines_of([("FedAvg", 0, [off])], "penalty") == []
    assert [line.title for line in curves.lines_of([("FedAvg", 0, [off]), ("Ours", 1, [on])], "penalty")] == ["Ours"]
    assert len(curves.lines_of([("FedAvg", 0, [off]), ("Ours", 1, [on])], "loss")) == 2


def test_tensorboard_has_no_panel_for_a_penalty_that_is_off(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from fs_fedmllm import config as schema
    from fs_fedmllm.runs.run_folder import RunFolder

    for name, penalty in (("off", 0.0), ("on", 0.25)):
        folder = RunFolder(tmp_path / name, schema.Config())
        folder.record("turn", 0, {"client": 1, "loss": 1.0, "penalty": penalty})
        folder.close()
        found = EventAccumulator(str(tmp_path / name / "events")).Reload().Tags()["scalars"]
        assert ("client_1/penalty" in found) == bool(penalty) and "client_1/loss" in found
        assert json.loads((tmp_path / name / "metrics.jsonl").read_text())["penalty"] == penalty
