"""``fedmllm.aggregation``: how a round's updates become one mean delta, before the server method's step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fs_fedmllm.keys import NOT_NEGATIVE, SHARE, Range, key
from fs_fedmllm.registry import Registry

OUR_RULES = ("mean", "krum", "multi_krum", "median", "trimmed_mean", "norm_bounded")
#: Values of ``fedmllm.aggregation.rule``; of another package's, ``(params, section) -> aggregator``.
RULES: Registry[Any] = Registry("fs_fedmllm.aggregators", dict.fromkeys(OUR_RULES))
#: Rules that pick whole updates or average them, so that clients' weights and exact LoRA means have a meaning.
AVERAGING_RULES = ("mean", "norm_bounded")
SELECTING_RULES = ("krum", "multi_krum")
CLIENT_WEIGHTS = ("default", "samples", "uniform", "balanced", "complete")


@dataclass(frozen=True)
class AggregationConfig:
    """``fedmllm.aggregation``: orthogonal to ``federate.method``, which steps along what comes out."""

    rule: str = key(
        "mean",
        "How updates are combined; all but mean are robust to a minority of bad clients and keep the round's "
        "updates in memory.",
        choices=RULES,
    )
    byzantine: int = key(0, "krum, multi_krum: bad clients that a round may hold.", unit="clients", valid=NOT_NEGATIVE)
    keep: int = key(
        0,
        "multi_krum: updates that are averaged; 0 takes what the paper's proof covers (clients - byzantine - 2).",
        unit="clients",
        valid=NOT_NEGATIVE,
    )
    trim: float = key(
        0.1,
        "trimmed_mean: share of the clients dropped at each end of every coordinate, rounded up.",
        valid=Range(0, 0.5, True, True),
    )
    lora: str = key(
        "factors",
        "What is averaged: A and B apart, exactly their product, or B alone with A frozen.",
        choices=("factors", "exact", "frozen_a"),
    )
    ranks: list = key([], "LoRA rank of each client, in the order of their ids; needs lora: exact. Empty: all alike.")
    client_weights: str = key(
        "default",
        "Weight of a client: the method's own, its rows, one, both modalities alike (balanced), or less the more its "
        "rows lack (complete).",
        choices=CLIENT_WEIGHTS,
    )
    weight_strength: float = key(1.0, "complete: weight = rows * (1 - strength * missing rate).", valid=SHARE)
    max_update_norm: float = key(
        0.0, "Largest L2 norm of a client's whole difference to the global adapter; 0 sets none.", valid=NOT_NEGATIVE
    )
    max_variate_norm: float = key(
        0.0,
        "Largest L2 norm of the change of its variate (a mean gradient) that a client of scaffold sends beside its "
        "update; a longer one is refused with the update. 0 sets none.",
        valid=NOT_NEGATIVE,
    )
    norm_action: str = key(
        "refuse", "What happens to a longer update: left out and named, or scaled down.", choices=("refuse", "clip")
    )
    outlier_factor: float = key(
        0.0,
        "Leave out and name the updates that are longer than so many times the round's median norm; 0 is off.",
        valid=Range(1, open_low=True, default=0),
    )
