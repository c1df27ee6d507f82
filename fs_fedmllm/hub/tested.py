"""What a model card says of test rows: the run's own, and those of further test sets."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fs_fedmllm.hub import phrases
from fs_fedmllm.hub.facts import Facts

#: Metrics of the test rows that a card shows, in this order; each may have an interval.
SHOWN = ("macro_f1", "auc", "acc", "open_acc", "closed_acc", "loss")
VIEWS = (("", "all that they have"), ("image_", "the image only"), ("text_", "the text only"))


def wilson(share: float, count: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson, JASA 22, 1927), from counts alone.

    Args:
        share: in [0, 1].
        count: rows.
    """
    from scipy.stats import binomtest

    interval = binomtest(round(share * count), count).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def intervals_from_rows(predictions: Path) -> dict[str, tuple[float, float]]:
    """Bootstrap intervals of accuracy and macro F1, by what the rows were shown with, from ``predictions.jsonl``.

    Returns:
        Metric name -> (low, high); empty where there is no such file.
    """
    from fs_fedmllm.evaluation.predictions import read_predictions
    from fs_fedmllm.evaluation.slices import intervals

    if not predictions.is_file():
        return {}
    rows = [row for row in read_predictions(predictions) if row.client is None]  # Local has no one adapter
    found = intervals(rows, ("acc", "macro_f1"), None, seed=0)
    return {name.removeprefix("test_"): (ends["low"], ends["high"]) for name, ends in found.items()}


def _metrics(facts: Facts) -> list[tuple[str, str, float, tuple[float, float] | None, str]]:
    """(view, metric, value, interval, how the interval was made) of the test rows."""
    lines = []
    entry = facts.entry or {}
    for prefix, view in VIEWS:
        for name in SHOWN:
            value = entry.get(f"test_{prefix}{name}")
            if value is None:
                continue
            interval, source = facts.intervals.get(prefix + name), "bootstrap"
            total = entry.get(f"test_{prefix}total")
            if interval is None and name == "acc" and total:
                interval, source = wilson(float(value), int(total)), "Wilson"
            lines.append((view, name, float(value), interval, source if interval else ""))
    return lines


@dataclass(frozen=True)
class Tested:
    """What a card says of test rows: the run's own, or those of a further set.

    Attributes:
        name: of the set; empty for the run's own rows.
        dataset: as a sentence may name it.
        type: the value of ``data.type``.
        facts: with the entry and the intervals of these rows.
        counted: ``test_rows`` of these rows.
    """

    name: str
    dataset: str
    type: str
    facts: Facts
    counted: Mapping[str, Any]

    def table(self) -> list[str]:
        """The figures, and of how many rows they are; empty without an evaluation of the card's round."""
        metrics = _metrics(self.facts)
        lines = ["| shown | rows | metric | value | 95 % interval |", "| --- | --- | --- | --- | --- |"]
        prefixes, entry = {view: prefix for prefix, view in VIEWS}, self.facts.entry or {}
        for view, name, value, interval, source in metrics:
            told = f"{interval[0]:.4f} to {interval[1]:.4f} ({source})" if interval else "not available"
            rows = entry.get(f"test_{prefixes[view]}total")
            lines.append(f"| {view} | {'' if rows is None else int(rows)} | {name} | {value:.4f} | {told} |")
        of = phrases.test_rows({"test_rows": self.counted}, entry, self.dataset)
        count = self.facts.mean_of
        made = f"Mean of the adapters of the last {count} rounds, after" if count else "After"
        after = f"{made} round {self.facts.round}, on {of}."
        return [*([f"Test set {self.name}:", ""] if self.name else []), *lines, "", after] if metrics else []

    def results(self) -> list[Any]:
        """The figures in the hub's form."""
        from huggingface_hub import EvalResult

        return [
            EvalResult(
                task_type="image-text-to-text",
                dataset_type=self.type,
                dataset_name=f"{self.dataset}, {view}",
                # results of one configuration are merged under the first one's name
                dataset_config=f"{self.name}, {view}" if self.name else view,
                metric_type=name,
                metric_value=round(value, 6),
            )
            for view, name, value, _, _ in _metrics(self.facts)
        ]


def tested(facts: Facts) -> list[Tested]:
    """The run's own test rows, and the further test sets that have an evaluation of the card's round."""
    results, config = facts.results, facts.config
    own = phrases.dataset(str(results.get("dataset", "")))
    found = [Tested("", own, str(config["data"]["type"]), facts, results.get("test_rows") or {})]
    for name, figures in (results.get("test_sets") or {}).items():
        evaluations = [] if facts.mean_of else figures.get("evaluations") or []
        entry = next((e for e in evaluations if e["round"] == facts.round), None)
        called = phrases.dataset(str(figures.get("dataset", "")))
        kind = str(config["fedmllm"]["test_sets"][name]["type"])
        of_set = dataclasses.replace(facts, entry=entry, intervals={})
        found.append(Tested(name, called, kind, of_set, figures.get("test_rows") or {}))
    return found
