"""Scenarios and metrics that other packages add; ours are defined where they belong."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from fs_fedmllm.registry import Registry

#: Scenarios that draw who gets which rows, and one that reads it in a column.
DRAWN, GIVEN = ("aligned", "missing", "cross", "hybrid"), "given"
OURS = (*DRAWN, GIVEN)
#: By name, without the prefix; of another package's, a :class:`fs_fedmllm.scenarios.Scenario`.
SCENARIOS: Registry[Any] = Registry("fs_fedmllm.scenarios", dict.fromkeys(OURS))
#: Metrics of an evaluation, over all tasks; each after its split and an underscore.
METRICS = ("acc", "macro_f1", "weighted_f1", "auc", "auc_hard", "open_acc", "closed_acc", "loss", "total")
#: Values of ``fedmllm.eval.metrics``: ``(predictions) -> RowMetric``, or None where the rows do not have it.
OUTSIDE_METRICS: Registry[Any] = Registry("fs_fedmllm.metrics", {}, (*METRICS, "unparsable"))
#: What FederatedScope tells our splitters from its own by.
PREFIX = "fedmllm_"


#: Parameters of a Dirichlet draw, which a column that says who has which rows leaves nothing to do.
_DRAW = ("alpha", "by", "keep_together")
#: Parameter -> the scenario that reads it.
_LEVELS = {
    **dict.fromkeys(("beta", "file_order"), "missing"),
    **dict.fromkeys(("image_clients", "text_clients"), "cross"),
    "p": "hybrid",
}


def counts_itself(name: str) -> bool:
    """Whether a scenario's rows say how many clients there are, so that ``federate.client_num`` may be left out."""
    return name == GIVEN or getattr(SCENARIOS.get(name), "count", None) is not None


def misplaced(name: str, settings: Mapping[str, Any]) -> str:
    """What is wrong with a scenario's settings: one that belongs to another scenario; empty if nothing is."""
    if name == GIVEN:
        drawn = next((key for key in _DRAW if settings.get(key) is not None), None)
        if drawn is not None:
            return (
                f"{drawn} says how rows are drawn, and with {PREFIX}given the column of client says who has them; "
                "take it out"
            )
        above = settings.get("scenario")
        if above is not None and above not in DRAWN:
            return (
                f"scenario is {above!r}; with {PREFIX}given it is one of {', '.join(DRAWN)}, whose missingness comes "
                "on top, or left out"
            )
        idle = next((key for key in _LEVELS if settings.get(key) is not None and _LEVELS[key] != above), None)
        if idle is not None:
            return f"{idle} is read by the scenario {_LEVELS[idle]}; write scenario: {_LEVELS[idle]} beside it"
        return ""
    mine = next((key for key in ("client", "scenario") if settings.get(key) is not None), None)
    if mine is None or mine in own_names(name):
        return ""
    return f"{mine} belongs to {PREFIX}given; write data.splitter: {PREFIX}given, and scenario: {name} beside client"


class Splitters(Collection[str]):
    """Values of ``data.splitter``: the scenarios' names with our prefix."""

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.startswith(PREFIX) and name.removeprefix(PREFIX) in SCENARIOS

    def __iter__(self) -> Iterator[str]:
        return (PREFIX + name for name in SCENARIOS)

    def __len__(self) -> int:
        return len(SCENARIOS)


SPLITTERS = Splitters()


def scenario_parameters(name: str) -> type | None:
    """The dataclass of a scenario's own parameters; None if it has none, as ours, or is unknown."""
    found: type | None = getattr(SCENARIOS.get(name), "parameters", None)
    return found


def own_names(name: str) -> tuple[str, ...]:
    """Names of a scenario's own parameters."""
    cls = scenario_parameters(name)
    return tuple(field.name for field in dataclasses.fields(cls)) if cls is not None else ()
