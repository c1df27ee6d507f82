"""Which aggregation rules, methods and regularisers go together."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from fs_fedmllm.algorithms import OPTIMIZERS, REGULARIZERS, Method
from fs_fedmllm.algorithms.factors import FACTORED
from fs_fedmllm.config.aggregation import AVERAGING_RULES, SELECTING_RULES, AggregationConfig

Refuse = Callable[[bool, str], None]


def check_aggregation(config: Any, refuse: Refuse) -> None:
    """Refuse combinations that mean nothing.

    Args:
        config: the whole configuration.
        refuse: raises ConfigError with a message when its condition holds.
    """
    method, chosen, clients = config.federate.method, config.fedmllm.aggregation, config.sampled_clients
    for fault in REGULARIZERS[config.fedmllm.regularizer.type].faults(config):
        refuse(True, fault)
    if not config.method.federated:
        refuse(
            chosen != AggregationConfig(),
            f"federate.method {method} has nothing to aggregate; leave fedmllm.aggregation at its defaults.",
        )
        return
    section = "fedmllm.aggregation"
    if chosen.rule in SELECTING_RULES:
        needed = 2 * chosen.byzantine + 3
        refuse(
            clients < needed,
            f"{section}.rule {chosen.rule} against {chosen.byzantine} bad clients needs rounds of at least {needed} "
            f"clients, and this run's have {clients}. Raise federate.sample_client_num or lower {section}.byzantine.",
        )
        refuse(
            chosen.byzantine == 0,
            f"{section}.rule {chosen.rule} needs {section}.byzantine: how many clients of a round may be bad.",
        )
        refuse(
            chosen.rule == "multi_krum" and chosen.keep > clients - chosen.byzantine,
            f"{section}.keep is {chosen.keep}, but of {clients} clients in a round {chosen.byzantine} may be bad. "
            "Lower it.",
        )
    refuse(
        chosen.byzantine > 0 and chosen.rule not in SELECTING_RULES,
        f"{section}.byzantine is read by krum and multi_krum; {section}.rule is {chosen.rule}.",
    )
    refuse(
        chosen.keep > 0 and chosen.rule != "multi_krum",
        f"{section}.keep is read by multi_krum; {section}.rule is {chosen.rule}.",
    )
    refuse(
        chosen.rule in ("median", "norm_bounded") and clients < 3,
        f"{section}.rule {chosen.rule} needs rounds of at least 3 clients, and this run's have {clients}.",
    )
    refuse(
        chosen.rule == "trimmed_mean" and 2 * math.ceil(chosen.trim * clients - 1.0e-9) >= clients,
        f"{section}.trim {chosen.trim:g} drops {math.ceil(chosen.trim * clients - 1.0e-9)} of {clients} clients at "
        "each end, which leaves none. Sample more clients a round.",
    )
    refuse(
        chosen.outlier_factor > 0 and clients < 3,
        f"{section}.outlier_factor compares with the round's median, which needs 3 clients; this run's rounds have "
        f"{clients}.",
    )
    refuse(
        chosen.client_weights != "default" and chosen.rule not in AVERAGING_RULES,
        f"{section}.rule {chosen.rule} treats all clients alike, as its paper does, so {section}.client_weights "
        f"{chosen.client_weights} has no effect; leave it at default.",
    )
    _check_lora(config, chosen, refuse)
    _check_privacy(config, chosen, refuse)
    _check_method(config, chosen, refuse)


def _check_lora(config: Any, chosen: AggregationConfig, refuse: Refuse) -> None:
    section, method, peft = "fedmllm.aggregation", config.federate.method, config.model.fedmllm.peft
    refuse(
        chosen.lora != "factors" and peft not in FACTORED,
        f"{section}.lora {chosen.lora} speaks of LoRA's factors A and B, and model.fedmllm.peft {peft} has none of "
        f"its own to speak of. Use one of {', '.join(FACTORED)}.",
    )
    if chosen.lora == "exact":
        refuse(
            method != "fedavg" or config.server_lr != 1.0,
            f"{section}.lora exact re-factorises the mean product in every round, so the factors' basis turns and "
            "momentum, second moments or a step of other length on the factors mean nothing. Use federate.method "
            "fedavg with fedmllm.server.lr 1.",
        )
        refuse(
            config.switches["fedavg"] != "mean",
            f"{section}.lora exact contradicts fedmllm.switches.fedavg {config.switches['fedavg']}.",
        )
        refuse(
            chosen.rule in ("median", "trimmed_mean"),
            f"{section}.rule {chosen.rule} works on single coordinates, which is no mean of products; use mean, krum, "
            f"multi_krum or norm_bounded with {section}.lora exact.",
        )
        refuse(
            config.fedmllm.compression.download != "float32",
            f"{section}.lora exact sets the factors anew, and fedmllm.compression.download "
            f"{config.fedmllm.compression.download} lets clients start from other ones than the server's. Set it to "
            "float32.",
        )
        refuse(
            config.fedmllm.compression.upload != "float32" and config.fedmllm.compression.error_feedback,
            f"{section}.lora exact turns the factors' basis in every round, and fedmllm.compression.error_feedback "
            "adds what rounding took in another basis. Set it to False, or fedmllm.compression.upload to float32.",
        )
    if chosen.ranks:
        refuse(
            config.fedmllm.compression.upload != "float32",
            f"{section}.ranks sends factors of other shapes than the global ones; set fedmllm.compression.upload to "
            "float32.",
        )
        refuse(
            chosen.lora != "exact",
            f"{section}.ranks needs {section}.lora exact: averaging factors of different ranks apart shrinks every "
            "direction that some clients lack.",
        )
        refuse(
            len(chosen.ranks) != config.federate.client_num,
            f"{section}.ranks has {len(chosen.ranks)} entries; it needs one for each of the "
            f"{config.federate.client_num} clients.",
        )
        most = config.model.fedmllm.lora.r
        for client, rank in enumerate(chosen.ranks, start=1):
            refuse(
                isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank <= most,
                f"{section}.ranks gives client {client} the rank {rank!r}; it must be a whole number from 1 to "
                f"model.fedmllm.lora.r, {most}.",
            )


def _check_privacy(config: Any, chosen: AggregationConfig, refuse: Refuse) -> None:
    summing = " and ".join(name for name, cls in OPTIMIZERS.items() if cls.keeps)
    refuse(
        config.fedmllm.privacy.secure_aggregation.enabled
        and (
            chosen != AggregationConfig(lora="frozen_a" if chosen.lora == "frozen_a" else "factors")
            or bool(config.method.keeps)
        ),
        "under fedmllm.privacy.secure_aggregation the server sees one sum and no client's update, so "
        f"fedmllm.aggregation (but for lora frozen_a) and federate.method {summing} cannot be had with it. "
        "Leave them at their defaults.",
    )
    if not config.fedmllm.privacy.dp.enabled:
        return
    section, privacy = "fedmllm.aggregation", "fedmllm.privacy.dp.clip_norm"
    refuse(
        chosen.rule != "mean" or chosen.lora == "exact" or chosen.outlier_factor > 0,
        f"{privacy} bounds what one client changes in a plain mean of differences; {section}.rule, lora: exact and "
        "outlier_factor change the mean by more. Use rule mean, lora factors or frozen_a, and no outlier_factor.",
    )
    refuse(
        chosen.client_weights not in ("default", "uniform"),
        f"under {privacy} every client weighs the same; set {section}.client_weights to default.",
    )
    refuse(
        bool(config.method.keeps),
        f"federate.method {config.federate.method} sends or sums what {privacy} does not bound; use another method.",
    )


def _check_method(config: Any, chosen: AggregationConfig, refuse: Refuse) -> None:
    method, section = config.method, "fedmllm.aggregation"
    beside = " and ".join(name for name, cls in OPTIMIZERS.items() if cls.sends_beside)
    refuse(
        chosen.max_variate_norm > 0 and not method.sends_beside,
        f"{section}.max_variate_norm bounds what federate.method {beside} sends beside the adapter, and the method is "
        f"{method.name}. Set it to 0.",
    )
    if method.keeps:
        _check_sum(method, chosen, refuse)
    for fault in method.faults(config):
        refuse(True, fault)


def _check_sum(method: type[Method], chosen: AggregationConfig, refuse: Refuse) -> None:
    refuse(
        chosen.rule != "mean"
        or chosen.lora == "exact"
        or bool(chosen.max_update_norm and chosen.norm_action == "clip"),
        f"federate.method {method.name} keeps its {method.keeps} on the server, the mean of what its clients keep, "
        "so it needs fedmllm.aggregation with rule mean, lora factors or frozen_a, and norm_action refuse.",
    )
    refuse(
        chosen.outlier_factor > 0,
        f"federate.method {method.name} cannot leave out updates after the fact; set "
        "fedmllm.aggregation.max_update_norm instead of outlier_factor.",
    )
    refuse(
        chosen.client_weights not in ("default", "uniform"),
        f"federate.method {method.name} weights clients alike; set fedmllm.aggregation.client_weights to default.",
    )
