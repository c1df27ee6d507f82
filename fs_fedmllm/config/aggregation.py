"""``fedmllm.aggregation``: how a round's updates become one mean delta, before the server method's step."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from fs_fedmllm.algorithms import OPTIMIZERS, REGULARIZERS, Method
from fs_fedmllm.algorithms.factors import FACTORED
from fs_fedmllm.algorithms.outside import faults_of
from fs_fedmllm.keys import NOT_NEGATIVE, SHARE, Range, key
from fs_fedmllm.registry import Registry

OUR_RULES = ("mean", "krum", "multi_krum", "median", "trimmed_mean", "norm_bounded", "robust_pca")
#: Values of ``fedmllm.aggregation.rule``; of another package's, ``(params, section) -> aggregator``. One with the
#: attributes ``section`` and ``parameters`` takes its own parameters third; ``faults(config)`` may refuse a run.
RULES: Registry[Any] = Registry("fs_fedmllm.aggregators", dict.fromkeys(OUR_RULES))
#: Rules that pick whole updates or average them, so that clients' weights and exact LoRA means have a meaning.
AVERAGING_RULES = ("mean", "norm_bounded", "robust_pca")
SELECTING_RULES = ("krum", "multi_krum")
#: Values of ``lora`` that are a mean of their own, and not that of the factors.
LORA_MEANS = ("exact", "dimension_wise")
CLIENT_WEIGHTS = ("default", "samples", "uniform", "balanced", "complete")


@dataclass(frozen=True)
class AggregationConfig:
    """``fedmllm.aggregation``: orthogonal to ``federate.method``, which steps along what comes out."""

    rule: str = key(
        "mean",
        "How updates are combined; all but mean keep the round's updates in memory, and all but mean and robust_pca "
        "are robust to a minority of bad clients.",
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
    sparse_scale: float = key(
        2.0, "robust_pca: beta, what the clients' sparse parts are scaled by; 1 is the plain mean.", valid=NOT_NEGATIVE
    )
    lora: str = key(
        "factors",
        "What is averaged: A and B apart, exactly their product, B alone with A frozen, or A and B dimension by "
        "dimension over the clients whose rank has it.",
        choices=("factors", "exact", "frozen_a", "dimension_wise"),
    )
    ranks: list = key(
        [],
        "LoRA rank of each client, in the order of their ids; needs lora: exact or dimension_wise. Empty: all alike.",
    )
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
        "Largest L2 norm of the change of its variate (a mean gradient) that a client sends beside its update, with a "
        "method that has variates; a longer one is refused with the update. 0 sets none.",
        valid=NOT_NEGATIVE,
    )
    norm_action: str = key(
        "refuse", "What happens to a longer update: left out and named, or scaled down.", choices=("refuse", "clip")
    )
    outlier_factor: float = key(
        0.0,
        "Leave out and name the updates that are longer than this many times the round's median norm; 0 is off.",
        valid=Range(1, open_low=True, default=0),
    )


def aggregation_faults(config: Any) -> Iterator[str]:
    """A message, naming the keys, for every combination of rule, method and regulariser that means nothing."""
    method, chosen, clients = config.federate.method, config.fedmllm.aggregation, config.sampled_clients
    yield from faults_of(REGULARIZERS[config.fedmllm.regularizer.type], config)
    if not config.method.federated:
        if chosen != AggregationConfig():
            yield f"federate.method {method} has nothing to aggregate; leave fedmllm.aggregation at its defaults."
        return
    section = "fedmllm.aggregation"
    if chosen.rule in SELECTING_RULES:
        needed = 2 * chosen.byzantine + 3
        if clients < needed:
            yield (
                f"{section}.rule {chosen.rule} against {chosen.byzantine} bad clients needs rounds of at least "
                f"{needed} clients, and this run's have {clients}. Raise federate.sample_client_num or lower "
                f"{section}.byzantine."
            )
        if chosen.byzantine == 0:
            yield f"{section}.rule {chosen.rule} needs {section}.byzantine: how many clients of a round may be bad."
        if chosen.rule == "multi_krum" and chosen.keep > clients - chosen.byzantine:
            yield (
                f"{section}.keep is {chosen.keep}, but of {clients} clients in a round {chosen.byzantine} may be bad. "
                "Lower it."
            )
    if chosen.byzantine > 0 and chosen.rule not in SELECTING_RULES:
        yield f"{section}.byzantine is read by krum and multi_krum; {section}.rule is {chosen.rule}."
    if chosen.keep > 0 and chosen.rule != "multi_krum":
        yield f"{section}.keep is read by multi_krum; {section}.rule is {chosen.rule}."
    if chosen.rule in ("median", "norm_bounded") and clients < 3:
        yield f"{section}.rule {chosen.rule} needs rounds of at least 3 clients, and this run's have {clients}."
    if chosen.rule == "trimmed_mean" and 2 * math.ceil(chosen.trim * clients - 1.0e-9) >= clients:
        yield (
            f"{section}.trim {chosen.trim:g} drops {math.ceil(chosen.trim * clients - 1.0e-9)} of {clients} clients "
            "at each end, which leaves none. Sample more clients a round."
        )
    if chosen.rule == "robust_pca":
        if clients < 2:
            yield f"{section}.rule robust_pca compares clients, and this run's rounds have {clients}."
        if chosen.lora == "exact":
            yield (
                f"{section}.rule robust_pca combines A and B apart, and {section}.lora exact averages their products. "
                "Set lora to factors."
            )
    elif chosen.sparse_scale != AggregationConfig().sparse_scale:
        yield f"{section}.sparse_scale is read by robust_pca; {section}.rule is {chosen.rule}."
    if chosen.outlier_factor > 0 and clients < 3:
        yield (
            f"{section}.outlier_factor compares with the round's median, which needs 3 clients; this run's rounds "
            f"have {clients}."
        )
    if chosen.rule not in OUR_RULES:
        yield from _outside_faults(config, chosen)
    elif chosen.client_weights != "default" and chosen.rule not in AVERAGING_RULES:
        yield (
            f"{section}.rule {chosen.rule} treats all clients alike, as its paper does, so {section}.client_weights "
            f"{chosen.client_weights} has no effect; leave it at default."
        )
    yield from _lora_faults(config, chosen)
    yield from _privacy_faults(config, chosen)
    yield from _method_faults(config, chosen)


def _outside_faults(config: Any, chosen: AggregationConfig) -> Iterator[str]:
    """What another package's rule does not get from here, and what it refuses itself."""
    section = "fedmllm.aggregation"
    if chosen.client_weights in ("balanced", "complete"):
        yield (
            f"{section}.client_weights {chosen.client_weights} weighs clients within our own rules; {section}.rule "
            f"{chosen.rule} is another package's. Use default, samples or uniform."
        )
    if chosen.lora == "exact":
        yield (
            f"{section}.lora exact averages products within our own rules; {section}.rule {chosen.rule} is another "
            "package's. Set lora to factors."
        )
    faults = getattr(RULES[chosen.rule], "faults", None)
    if faults is not None:
        yield from faults(config)


def _lora_faults(config: Any, chosen: AggregationConfig) -> Iterator[str]:
    section, method, peft = "fedmllm.aggregation", config.federate.method, config.model.fedmllm.peft
    if chosen.lora != "factors" and peft not in FACTORED:
        yield (
            f"{section}.lora {chosen.lora} speaks of LoRA's factors A and B, and model.fedmllm.peft {peft} has none "
            f"of its own to speak of. Use one of {', '.join(FACTORED)}."
        )
    if chosen.lora == "exact":
        if method != "fedavg" or config.server_lr != 1.0:
            yield (
                f"{section}.lora exact re-factorises the mean product in every round, so the factors' basis rotates "
                "and momentum, second moments or a step of other length on the factors mean nothing. Use "
                "federate.method fedavg with fedmllm.server.lr 1."
            )
        if config.switches["fedavg"] != "mean":
            yield f"{section}.lora exact contradicts fedmllm.switches.fedavg {config.switches['fedavg']}."
        if chosen.rule in ("median", "trimmed_mean"):
            yield (
                f"{section}.rule {chosen.rule} works on single coordinates, which is no mean of products; use mean, "
                f"krum, multi_krum or norm_bounded with {section}.lora exact."
            )
        if config.fedmllm.compression.download != "float32":
            yield (
                f"{section}.lora exact computes new factors, and fedmllm.compression.download "
                f"{config.fedmllm.compression.download} lets clients start from other ones than the server's. Set it "
                "to float32."
            )
        if config.fedmllm.compression.upload != "float32" and config.fedmllm.compression.error_feedback:
            yield (
                f"{section}.lora exact rotates the factors' basis in every round, and "
                "fedmllm.compression.error_feedback adds what rounding took in another basis. Set it to False, or "
                "fedmllm.compression.upload to float32."
            )
    if chosen.lora == "dimension_wise":
        if not chosen.ranks:
            yield (
                f"{section}.lora dimension_wise is the plain mean of factors where all clients have one rank; give "
                f"{section}.ranks, or set lora to factors."
            )
        if chosen.rule != "mean":
            yield f"{section}.lora dimension_wise is a mean of its own; set {section}.rule to mean."
    if chosen.ranks:
        if config.fedmllm.compression.upload != "float32":
            yield (
                f"{section}.ranks sends factors of other shapes than the global ones; set fedmllm.compression.upload "
                "to float32."
            )
        if chosen.lora not in LORA_MEANS:
            yield (
                f"{section}.ranks needs {section}.lora exact or dimension_wise: averaging factors of different ranks "
                "apart shrinks every direction that some clients lack."
            )
        if len(chosen.ranks) != config.federate.client_num:
            yield (
                f"{section}.ranks has {len(chosen.ranks)} entries; it needs one for each of the "
                f"{config.federate.client_num} clients."
            )
        most = config.model.fedmllm.lora.r
        for client, rank in enumerate(chosen.ranks, start=1):
            if type(rank) is not int or not 1 <= rank <= most:
                yield (
                    f"{section}.ranks gives client {client} the rank {rank!r}; it must be a whole number from 1 to "
                    f"model.fedmllm.lora.r, {most}."
                )


def _privacy_faults(config: Any, chosen: AggregationConfig) -> Iterator[str]:
    summing = " and ".join(name for name, cls in OPTIMIZERS.items() if cls.keeps)
    if config.fedmllm.privacy.secure_aggregation.enabled and (
        chosen != AggregationConfig(lora="frozen_a" if chosen.lora == "frozen_a" else "factors")
        or bool(config.method.keeps)
    ):
        yield (
            "under fedmllm.privacy.secure_aggregation the server sees one sum and no client's update, so "
            f"fedmllm.aggregation (but for lora frozen_a) and federate.method {summing} cannot be combined with it. "
            "Leave them at their defaults."
        )
    if not config.fedmllm.privacy.dp.enabled:
        return
    section, privacy = "fedmllm.aggregation", "fedmllm.privacy.dp.clip_norm"
    if chosen.rule != "mean" or chosen.lora in LORA_MEANS or chosen.outlier_factor > 0:
        yield (
            f"{privacy} bounds what one client changes in a plain mean of differences; {section}.rule, lora: exact or "
            "dimension_wise and outlier_factor change the mean by more. Use rule mean, lora factors or frozen_a, and "
            "no outlier_factor."
        )
    if chosen.client_weights not in ("default", "uniform"):
        yield f"under {privacy} every client weighs the same; set {section}.client_weights to default."
    if config.method.keeps or config.method.sends_beside:
        yield (
            f"federate.method {config.federate.method} sends or sums what {privacy} does not bound; use another "
            "method."
        )


def _method_faults(config: Any, chosen: AggregationConfig) -> Iterator[str]:
    method, section = config.method, "fedmllm.aggregation"
    beside = " and ".join(name for name, cls in OPTIMIZERS.items() if cls.sends_beside)
    if chosen.max_variate_norm > 0 and not method.sends_beside:
        yield (
            f"{section}.max_variate_norm bounds what federate.method {beside} sends beside the adapter, and the "
            f"method is {method.name}. Set it to 0."
        )
    if method.keeps:
        yield from _sum_faults(method, chosen)
    yield from faults_of(method, config)


def _sum_faults(method: type[Method], chosen: AggregationConfig) -> Iterator[str]:
    if (
        chosen.rule != "mean"
        or chosen.lora in LORA_MEANS
        or bool(chosen.max_update_norm and chosen.norm_action == "clip")
    ):
        yield (
            f"federate.method {method.name} keeps its {method.keeps} on the server, the mean of what its clients "
            "keep, so it needs fedmllm.aggregation with rule mean, lora factors or frozen_a, and norm_action refuse."
        )
    if chosen.outlier_factor > 0:
        yield (
            f"federate.method {method.name} cannot leave out updates after the fact; set "
            "fedmllm.aggregation.max_update_norm instead of outlier_factor."
        )
    if chosen.client_weights not in ("default", "uniform"):
        yield (
            f"federate.method {method.name} gives all clients equal weight; set fedmllm.aggregation.client_weights to "
            "default."
        )
