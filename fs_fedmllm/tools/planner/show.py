"""A plan as text."""

from __future__ import annotations

from typing import Any

from fs_fedmllm.models.row_tokens import said_tokens
from fs_fedmllm.runs.amounts import said_bytes
from fs_fedmllm.text_columns import aligned
from fs_fedmllm.tools.planner.plan import Plan
from fs_fedmllm.tools.planner.precisions import settings


def number(count: float) -> str:
    """A count for people."""
    for unit, step in (("B", 1e9), ("M", 1e6)):
        if count >= step:
            return f"{count / step:.2f} {unit}"
    return f"{count:,.0f}"


def duration(seconds: float) -> str:
    """Seconds for people."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _precisions(found: dict[str, Any]) -> str:
    """What the base costs in each precision, and which to take."""
    figures, take = found["precisions"], found["take"]
    parts = [
        f"{name} {figure['relative']:.2f} ({said_bytes(figure['base_bytes'])})" for name, figure in figures.items()
    ]
    kept = take == found["configured"]
    advice = f"{take} as configured" if kept else f"take {take} ({settings(take)})"
    return (
        f"{advice}; time of a step's matrix products ({found['tokens']} tokens, float32 is 1) and bytes of the base: "
        f"{', '.join(parts)} (probe)"
    )


def table(plan: Plan) -> str:
    """The plan as lines of ``what  figure``."""
    lines: list[tuple[str, str]] = []
    model: dict[str, Any] = plan.model
    if model:
        place = "on this machine" if model["present"] else "NOT on this machine"
        lines.append(("model", f"{model['path']}, {place}; licence {model['licence']}, gated {model['gated']}"))
    if "base_parameters" in model:
        lines.append(("base", f"{number(model['base_parameters'])} parameters in {model['dtype']}, "
                              f"{said_bytes(model['base_bytes'])}"))  # fmt: skip
        lines.append(("adapter", f"{number(model['adapter_parameters'])} parameters, "
                                 f"{said_bytes(plan.traffic['adapter_bytes'])} on the wire"))  # fmt: skip
    data = plan.data
    if data.get("present"):
        lines.append(("data", f"{data['type']} ({data['root']}): {data['train']} training, {data['val']} validation, "
                              f"{data['test']} test rows"))  # fmt: skip
        if data["test_sets"]:
            told = ", ".join(f"{name} {count:,} rows" for name, count in data["test_sets"].items())
            lines.append(("test sets", told))
        lines.append(("clients", f"{data['clients']} with {data['smallest_client']} to {data['largest_client']} rows"))
    else:
        lines.append(("data", f"{data['type']} ({data['root']}): NOT there"))
    if plan.tokens:
        lines.append(("tokens", said_tokens(plan.tokens)))
        for name, found in plan.tokens["test_sets"].items():
            lines.append((f"tokens, {name}", said_tokens(found)))
        if "image" in plan.tokens:
            facts = ", ".join(f"{name} {value}" for name, value in plan.tokens["images"].items())
            lines.append(("images", facts))
    if plan.work:
        work = plan.work
        lines.append(("work", f"{work['rounds']} rounds of {work['clients_per_round']} clients, {work['turns']} "
                              f"client updates, {work['steps']:,} steps, {work['rows_trained']:,} rows"))  # fmt: skip
        if buffered := work.get("async"):
            lines.append(("asynchronous", f"{buffered['in_flight']} clients at once, "
                                          f"{buffered['virtual_seconds']:,.6g} virtual seconds, "
                                          f"{buffered['dropped']} updates too old, "
                                          f"{buffered['versions_kept']} earlier adapters kept at most"))  # fmt: skip
        of_sets = sum(work["rows_scored_test_sets"].values())
        further = f", {of_sets:,} of them of further test sets" if of_sets else ""
        lines.append(("evaluation", f"{work['evaluations']} times, {work['rows_scored']:,} rows in all{further}"))
    if plan.traffic:
        a_round, in_all = (said_bytes(plan.traffic[name]) for name in ("round_bytes", "run_bytes"))
        lines.append(("traffic", f"{a_round} a round, {in_all} in all, both directions"))
    if plan.memory:
        lines.append(("memory", f"{said_bytes(plan.memory['peak_bytes'])} above the imports, per process (probe)"))
        if "device_peak_bytes" in plan.memory:
            lines.append(("accelerator", said_bytes(plan.memory["device_peak_bytes"])))
    if plan.time:
        parts = ", ".join(f"{name} {duration(s)}" for name, s in plan.time["seconds"].items())
        lines.append(("time", f"{duration(plan.time['total_seconds'])}: {parts}"))
    if plan.precisions:
        lines.append(("precision", _precisions(plan.precisions)))
    for package in plan.packages:
        lines.append(("package", f"{package['name']} {package['installed'] or '-'}: {package['verdict']} "
                                 f"({package['tested'] or package['bounds']})"))  # fmt: skip
    text = "\n".join(aligned(lines, left=(0, 1)))
    if plan.notes:
        text += "\n\n" + "\n".join(plan.notes)
    if plan.problems:
        text += "\n\nThis run would not start:\n" + "\n".join(f"- {problem}" for problem in plan.problems)
    return text
