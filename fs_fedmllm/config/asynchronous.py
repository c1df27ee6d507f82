"""``fedmllm.async``: rounds that end when a buffer of updates is full (FedBuff), and what they cannot be had with."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from fs_fedmllm.config.network import NetworkConfig
from fs_fedmllm.keys import NOT_NEGATIVE, is_number, key

#: Longest time of an update on the virtual clock, so that no sum of them loses a tie to rounding.
LONGEST = 1.0e9


@dataclass(frozen=True)
class AsyncConfig:
    """``fedmllm.async``: asynchronous rounds in simulation, on a virtual clock; see docs/algorithms.md."""

    buffer: int = key(
        0,
        "The server steps as soon as this many updates have come, from whichever version of the adapter; 0: when all "
        "clients of the round have answered.",
        unit="updates",
        valid=NOT_NEGATIVE,
    )
    max_staleness: int = key(
        10,
        "An update is dropped, and counted, if the server took more than this many steps since its client was sent "
        "the adapter.",
        unit="steps",
        valid=NOT_NEGATIVE,
    )
    weight: str = key(
        "polynomial",
        "What an update of staleness s counts: 1, or (1 + s) ^ -exponent.",
        choices=("constant", "polynomial"),
    )
    exponent: float = key(0.5, "a of the polynomial weight.", valid=NOT_NEGATIVE)
    seconds: list = key(
        [],
        "Virtual seconds from sending a client the adapter to having its update, one entry for each client in the "
        "order of ids; a list in the place of a number is a trace, one entry for each version of the adapter, "
        "repeated. Empty: 1 for all.",
        unit="seconds",
    )


@dataclass(frozen=True)
class Apart:
    """What a buffer of updates cannot be combined with.

    Attributes:
        key: the setting's.
        found: its value where it is set so that the two exclude each other, else None.
        why: the middle of a sentence: what it would need.
        remedy: what to set.
    """

    key: str
    found: Callable[[Any], Any]
    why: str
    remedy: str


def _if(unlike: Callable[[Any], Any], usual: Any) -> Callable[[Any], Any]:
    """A value where it is not the usual one."""

    def found(config: Any) -> Any:
        value = unlike(config)
        return None if value == usual else value

    return found


_AGGREGATION = "compares the updates of one round, which here start from different versions of the adapter"
_DEADLINE = "ends a round that waits for its clients, and this one waits for none"
_NETWORK = NetworkConfig()

#: The one declaration of what asynchronous rounds exclude.
APART: tuple[Apart, ...] = (
    Apart(
        "federate.mode",
        _if(lambda c: c.federate.mode, "standalone"),
        "has a server that waits for its round's clients",
        "Run it on one machine with --engine embedded, or set fedmllm.async.buffer to 0",
    ),
    Apart(
        "federate.method",
        lambda c: c.federate.method if not c.method.federated or c.method.keeps or c.method.sends_beside else None,
        "has no server, or one that keeps the mean of what its clients keep or takes more than their adapters, which "
        "is right only where all of a round start from one adapter",
        "Use fedavg, fedavgm, fedadagrad, fedadam or fedyogi",
    ),
    Apart(
        "fedmllm.privacy.secure_aggregation.enabled",
        lambda c: c.fedmllm.privacy.secure_aggregation.enabled or None,
        "opens the sum of a round's clients, whose members are known when it begins, and hides how old each update is",
        "Set it to False",
    ),
    Apart(
        "fedmllm.privacy.dp.clip_norm",
        lambda c: c.fedmllm.privacy.dp.clip_norm or None,
        "has an accountant that counts on a uniform draw of clients in every round, and here the fast ones come more "
        "often",
        "Set it to 0",
    ),
    Apart(
        "fedmllm.replay",
        lambda c: c.fedmllm.replay or None,
        "names the clients of every round, which here follow from fedmllm.async.seconds",
        "Leave it out; the same configuration gives the same run",
    ),
    Apart(
        "fedmllm.aggregation.rule",
        _if(lambda c: c.fedmllm.aggregation.rule, "mean"),
        _AGGREGATION,
        "Set it to mean",
    ),
    Apart(
        "fedmllm.aggregation.lora",
        lambda c: c.fedmllm.aggregation.lora if c.fedmllm.aggregation.lora in ("exact", "dimension_wise") else None,
        "is a mean over clients that start from one adapter, and the difference of an older version has another basis",
        "Set it to factors or frozen_a",
    ),
    Apart(
        "fedmllm.aggregation.outlier_factor",
        lambda c: c.fedmllm.aggregation.outlier_factor or None,
        _AGGREGATION,
        "Set fedmllm.aggregation.max_update_norm instead, and it to 0",
    ),
    Apart(
        "fedmllm.aggregation.client_weights",
        lambda c: (
            c.fedmllm.aggregation.client_weights
            if c.fedmllm.aggregation.client_weights in ("balanced", "complete")
            else None
        ),
        "balances the clients of one round, and a buffer holds whoever came",
        "Set it to default, samples or uniform",
    ),
    Apart(
        "fedmllm.switches.client_sampling",
        _if(lambda c: c.switches["client_sampling"], "run_generator"),
        "draws a whole round at once",
        "Set it to run_generator",
    ),
    Apart("fedmllm.network.min_clients", lambda c: c.fedmllm.network.min_clients or None, _DEADLINE, "Set it to 0"),
    Apart(
        "fedmllm.network.turn_timeout",
        _if(lambda c: c.fedmllm.network.turn_timeout, _NETWORK.turn_timeout),
        _DEADLINE,
        "Leave it out; fedmllm.async.max_staleness is the limit here",
    ),
)


def async_faults(config: Any) -> Iterator[str]:
    """A message, naming the keys, for every combination that cannot mean anything.

    Args:
        config: the whole configuration; how many clients there are is known.
    """
    chosen, prefix = config.fedmllm.async_, "fedmllm.async"
    if not chosen.buffer:
        for field in dataclasses.fields(chosen):
            if getattr(chosen, field.name) != getattr(AsyncConfig(), field.name):
                yield f"{prefix}.{field.name} is set, and {prefix}.buffer is 0, so it has no effect. Set buffer."
        return
    for apart in APART:
        if (value := apart.found(config)) is not None:
            yield f"{prefix}.buffer is {chosen.buffer}, and {apart.key} {value} {apart.why}. {apart.remedy}."
    if chosen.weight == "constant" and chosen.exponent != AsyncConfig().exponent:
        yield f"{prefix}.exponent is read by {prefix}.weight polynomial, which is constant. Leave it out."
    if chosen.buffer > config.sampled_clients:
        yield (
            f"{prefix}.buffer is {chosen.buffer}, and {config.sampled_clients} clients train at once "
            "(federate.sample_client_num, else all), each of which comes into a buffer once. Lower it."
        )
    if chosen.seconds and len(chosen.seconds) != config.federate.client_num:
        yield (
            f"{prefix}.seconds has {len(chosen.seconds)} entries; it needs one for each of the "
            f"{config.federate.client_num} clients."
        )
    for client, entry in enumerate(chosen.seconds, start=1):
        trace = entry if isinstance(entry, list | tuple) else [entry]
        if not trace or not all(is_number(value) and 0 < value <= LONGEST for value in trace):
            yield (
                f"{prefix}.seconds gives client {client} {entry!r}; it must be a number above 0 and at most "
                f"{LONGEST:g}, or a list of such."
            )


def host_fault(config: Any) -> str:
    """What to say where FederatedScope itself is to run such rounds; empty where they are not asked for."""
    if not config.fedmllm.async_.buffer:
        return ""
    return (
        f"fedmllm.async.buffer is {config.fedmllm.async_.buffer}, but FederatedScope's server waits for all clients "
        "of a round. Run the file with --engine embedded, or set fedmllm.async.buffer to 0."
    )
