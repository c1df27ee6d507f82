"""What a run shows when it is done: its closing table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fs_fedmllm.data.sample import SHOWS
from fs_fedmllm.evaluation.form import said_of_form
from fs_fedmllm.evaluation.question_only import beside
from fs_fedmllm.evaluation.views import said_views
from fs_fedmllm.privacy.accountant import hollow
from fs_fedmllm.runs.amounts import said_bytes
from fs_fedmllm.runs.decisions import said_decisions
from fs_fedmllm.runs.progress import said_figures
from fs_fedmllm.runs.virtual_time import said_buffered
from fs_fedmllm.scenarios.fitting import LAST_ROUND
from fs_fedmllm.scenarios.rates import said_rates
from fs_fedmllm.text_columns import aligned


def _test_set_lines(results: Mapping[str, Any]) -> list[str]:
    """A line for each further test set of a run's results: its last figures, and what the questions alone give."""
    lines = []
    for name, own in (results.get("test_sets") or {}).items():
        if own["evaluations"]:
            rows = own["test_rows"]
            of = "" if rows["evaluated"] == rows["all"] else f" of {rows['all']:,}"
            lines.append(f"test set {name} ({rows['evaluated']:,}{of} rows): {said_figures(own['evaluations'][-1])}")
            if baseline := own.get("question_only"):
                lines[-1] += f"; question only: acc {baseline['acc']:.4f}"
    return lines


def privacy_line(privacy: dict[str, Any]) -> str:
    """One line on what a run gave away.

    Args:
        privacy: ``privacy`` of results.json.
    """
    said = []
    if dp := privacy.get("differential_privacy"):
        said.append(
            f"epsilon {dp['epsilon']:.4g} at delta {dp['delta']:.3g} per client "
            f"({dp['neighbouring']}; {dp['sampling']}; {dp['releases']} noisy means)"
            f"{hollow(dp['epsilon'], dp['delta'])}"
        )
    if privacy.get("secure_aggregation"):
        said.append("secure aggregation, the server saw sums only")
    return f"privacy: {', '.join(said)}"


def test_rows_line(counted: dict[str, Any]) -> str:
    """How many test rows an evaluation takes, and what they show; empty where there is none, or nobody counted.

    Args:
        counted: ``test_rows`` of results.json.
    """
    if not counted.get("evaluated"):
        return ""
    of = "" if counted["evaluated"] == counted["all"] else f" of {counted['all']:,} (fedmllm.eval.limit)"
    shown = ", ".join(f"{count:,} {SHOWS.get(case, case)}" for case, count in counted["presence"].items())
    return f"test rows: {counted['evaluated']:,}{of}; {shown}"


def _picked(results: Mapping[str, Any], best_round: int | None) -> str:
    """Which round is the best, and by what; or that nothing picks one."""
    metric, evaluations = results["best_by"], results["evaluations"]
    if best_round is None:
        if not evaluations:
            return "no round was evaluated, so none is the best"
        return (
            f"no validation rows pick a best round: the run's figures are of the last one, round {results['rounds']}"
        )
    said = f"best by {metric}: round {best_round}"
    if results.get("best_by_loss"):
        said += f" ({metric} is {evaluations[0].get(metric):.4f} in every evaluation, so the lowest loss is the best)"
    return said


def closing_table(results: dict[str, Any], folder: str) -> str:
    """The figures of a finished run as text."""
    evaluations = results["evaluations"]
    order = ("test_macro_f1", "test_auc", "test_acc", "test_open_acc", "test_closed_acc", "test_loss")
    present = {name for entry in evaluations for name in entry}
    columns = [name for name in (results["best_by"], *order) if name in present]
    columns = list(dict.fromkeys(columns))
    slices = [n for n in ("test_image_acc", "test_text_acc") if n in present]
    header = [
        "",
        *[c.replace("test_", "").replace("val_", "val ") for c in columns],
        *[c.replace("test_", "").replace("_", " ") for c in slices],
    ]
    # Nothing picks a round where there are no validation rows to pick it by: the last one is the run's.
    picks = results["best_by"] != LAST_ROUND
    best_round = results["best"]["round"] if results["best"] and picks else None
    rows = []
    for entry in evaluations:
        name = "zero-shot" if entry["round"] == 0 else f"round {entry['round']}"
        if entry["round"] == best_round:
            name += " (best)"
        rows.append([name, *[f"{entry[c]:.4f}" if c in entry else "" for c in (*columns, *slices)]])
    lines = aligned([header, *rows])
    seconds = results["seconds"]
    rest = seconds["total"] - seconds["training"] - seconds["evaluation"]
    lines += [
        "",
        _picked(results, best_round),
        f"bytes sent: {said_bytes(results['bytes_sent'])} (adapter {said_bytes(results['adapter_bytes'])})",
        f"time: {seconds['total']:.1f} s = training {seconds['training']:.1f} s + evaluation "
        f"{seconds['evaluation']:.1f} s + everything else {rest:.1f} s",
        f"adapter sha256: {results['adapter_sha256']}",
        f"run folder: {folder}",
    ]
    if results.get("question_only") and evaluations:
        lines[len(evaluations) + 1 : len(evaluations) + 1] = ["", beside(evaluations[-1], results["question_only"])]
    if further := _test_set_lines(results):
        lines[len(evaluations) + 1 : len(evaluations) + 1] = ["", *further]
    if average := results.get("average_last"):
        names = [name for name in columns if name in average]
        told = ", ".join(f"{name} {average[name]:.4f}" for name in names)
        lines.insert(-2, f"mean of the last {len(average['rounds'])} rounds' adapters: {told}")
    if results.get("views"):
        lines[-2:-2] = said_views(results["views"]).splitlines()
    for line in said_decisions(results.get("stand_ins") or []):
        lines.insert(-2, line)
    if found := results.get("async"):
        lines.insert(-2, said_buffered(found))
    if told := test_rows_line(results.get("test_rows") or {}):
        lines.insert(-2, told)
    if missing := said_rates(
        results.get("missing_rates") or {}, (results.get("test_rows") or {}).get("presence") or {}
    ):
        lines.insert(-2, f"missing modalities: {missing}")
    if results.get("model"):
        lines.insert(-2, f"model: {results['model']}")
    if results.get("privacy"):
        lines.insert(-2, privacy_line(results["privacy"]))
    if results.get("out_of_form"):
        lines.insert(-2, said_of_form(results["out_of_form"]))
    if results["refused"]:
        lines.insert(-2, f"refused updates: {len(results['refused'])} (see results.json)")
    return "\n".join(lines)
