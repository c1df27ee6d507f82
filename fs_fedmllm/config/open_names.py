"""Scenarios and metrics that other packages add; what stands behind our own names is in the rooms that have them."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator
from typing import Any

from fs_fedmllm.registry import Registry

#: By name, without the prefix; of another package's, a :class:`fs_fedmllm.scenarios.Scenario`.
SCENARIOS: Registry[Any] = Registry("fs_fedmllm.scenarios", dict.fromkeys(("aligned", "missing", "cross", "hybrid")))
#: Metrics of an evaluation, over all tasks; each after its split and an underscore.
METRICS = ("acc", "macro_f1", "weighted_f1", "auc", "auc_hard", "open_acc", "closed_acc", "loss", "total")
#: Values of ``fedmllm.eval.metrics``: ``(predictions) -> RowMetric``, or None where the rows do not have it.
OUTSIDE_METRICS: Registry[Any] = Registry("fs_fedmllm.metrics", {}, (*METRICS, "unparsable"))
#: What FederatedScope tells our splitters from its own by.
PREFIX = "fedmllm_"


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
