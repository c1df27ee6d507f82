"""From ``fedmllm.aggregation`` to the aggregator of one round."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from fs_fedmllm.aggregators.aggregator import Aggregator, BufferedAggregator
from fs_fedmllm.aggregators.dimension_wise import dimension_wise_mean
from fs_fedmllm.aggregators.lora_exact import exact_lora_mean
from fs_fedmllm.aggregators.mean import RunningMean
from fs_fedmllm.aggregators.modality_weights import Presence, modality_mean, modality_weights
from fs_fedmllm.aggregators.robust import coordinate_median, krum_selection, norm_bounded, trimmed_mean
from fs_fedmllm.aggregators.robust_pca import robust_pca_mean
from fs_fedmllm.aggregators.updates import Updates, weighted_mean
from fs_fedmllm.algorithms.factors import is_a
from fs_fedmllm.algorithms.state import State
from fs_fedmllm.config import AggregationConfig
from fs_fedmllm.config.aggregation import LORA_MEANS, OUR_RULES, RULES


def build_aggregator(
    config: AggregationConfig,
    params: State,
    presence: Presence,
    on_image_path: Callable[[str], bool] = lambda name: False,
    parameters: Any = None,
) -> Aggregator:
    """The aggregator of one round.

    Args:
        config: ``fedmllm.aggregation``.
        params: what the deltas are relative to.
        presence: rows of each client by what they show, for modality-aware weights.
        on_image_path: whether a tensor lies before the image meets the text (vision tower, resampler, projector);
            the model's family knows.
        parameters: of another package's rule that declares some.
    """
    if config.rule not in OUR_RULES:
        rule = RULES[config.rule]
        outside: Aggregator = rule(params, config) if parameters is None else rule(params, config, parameters)
        return outside
    weighted = config.client_weights in ("balanced", "complete")
    plain = config.rule == "mean" and config.lora not in LORA_MEANS
    if plain and not weighted and not config.outlier_factor:
        return RunningMean(params)

    def reweigh(updates: Updates) -> State:
        if not weighted:
            return weighted_mean(updates)
        return modality_mean(
            updates, presence, rule=config.client_weights, strength=config.weight_strength, on_image_path=on_image_path
        )

    def combine(params: State, updates: Updates) -> tuple[State, dict[str, float]]:
        figures: dict[str, float] = {}
        if config.rule == "median":
            return coordinate_median(updates), figures
        if config.rule == "trimmed_mean":
            return trimmed_mean(updates, trim=config.trim), figures
        if config.rule in ("krum", "multi_krum"):
            keep = 1 if config.rule == "krum" else config.keep or max(1, len(updates) - config.byzantine - 2)
            kept = set(krum_selection(updates, byzantine=config.byzantine, keep=keep))
            updates = [(client, 1.0, delta) for client, _, delta in updates if client in kept]
            figures["kept_clients"] = float(len(kept))
        elif config.rule == "norm_bounded":
            updates = norm_bounded(updates)
        if config.rule != "robust_pca" and config.lora not in LORA_MEANS:
            return reweigh(updates), figures
        if weighted:
            updates = _modality_weighted(updates, presence, config)
        if config.rule == "robust_pca":
            mean, figures["sparse_share"] = robust_pca_mean(updates, config.sparse_scale)
            return mean, figures
        if config.lora == "dimension_wise":
            ranks = {client: int(rank) for client, rank in enumerate(config.ranks, start=1)}
            return dimension_wise_mean(params, updates, ranks), figures
        mean, report = exact_lora_mean(params, updates)
        if report:
            figures["lora_residual"] = max(pair.residual for pair in report.values())
            figures["lora_naive"] = max(pair.naive for pair in report.values())
        return mean, figures

    return BufferedAggregator(params, combine, outlier_factor=config.outlier_factor)


def _modality_weighted(
    updates: Updates, presence: Presence, config: AggregationConfig
) -> list[tuple[int, float, Mapping[str, torch.Tensor]]]:
    weights = modality_weights(
        {client: presence[client] for client, _, _ in updates},
        rule=config.client_weights,
        strength=config.weight_strength,
    )
    return [(client, weights[client], delta) for client, _, delta in updates if weights[client] > 0]


def federated_names(params: State, config: AggregationConfig) -> frozenset[str]:
    """Names of the global adapter that clients may send: without the A factors where those are frozen."""
    return frozenset(name for name in params if config.lora != "frozen_a" or not is_a(name))
