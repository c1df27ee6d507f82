"""The rule of a round: one object that takes updates in ascending client order and gives their mean delta.

Every rule has ``add(client, weight, update)`` and ``mean()``, as :class:`RunningMean` has. The plain mean is that
running sum, one adapter in memory; :class:`Cohort` keeps the round's deltas for the rules that need them all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Protocol

import torch

from fs_fedmllm.aggregation.base import State
from fs_fedmllm.aggregation.cohort import Updates, weighted_mean
from fs_fedmllm.aggregation.frozen_a import is_frozen
from fs_fedmllm.aggregation.lora_exact import exact_lora_mean
from fs_fedmllm.aggregation.mean import RunningMean, check_client
from fs_fedmllm.aggregation.modality_weights import Presence, modality_mean, modality_weights
from fs_fedmllm.aggregation.robust import (
    coordinate_median,
    krum_selection,
    norm_bounded,
    outliers,
    trimmed_mean,
)
from fs_fedmllm.config import AggregationConfig
from fs_fedmllm.errors import ConfigError, UpdateError


class RoundRule(Protocol):
    """What averages one round."""

    #: Clients that ``mean`` left out, and why.
    refused: Mapping[int, str]
    #: What the rule has to say about the round, for the log.
    figures: Mapping[str, float]

    def add(self, client: int, weight: float, update: Mapping[str, torch.Tensor]) -> None:
        """Add one client's parameters; clients come in ascending order."""

    def mean(self) -> State:
        """The mean delta; names that nobody sent are absent."""


#: (global parameters, the round's updates) -> mean delta and figures for the log.
Combine = Callable[[State, Updates], tuple[State, dict[str, float]]]


class Cohort:
    """Keeps the round's deltas and combines them at the end.

    Args:
        params: the global parameters.
        combine: the rule.
        outlier_factor: leave out deltas longer than so many times the median norm; 0 is off.
    """

    def __init__(self, params: State, combine: Combine, *, outlier_factor: float = 0.0):
        self._params = params
        self._combine = combine
        self._outlier_factor = outlier_factor
        self._updates: list[tuple[int, float, State]] = []
        self.refused: Mapping[int, str] = MappingProxyType({})
        self.figures: Mapping[str, float] = MappingProxyType({})

    def add(self, client: int, weight: float, update: Mapping[str, torch.Tensor]) -> None:
        """Keep one client's delta; arguments and errors as for ``RunningMean.add``."""
        check_client(client, weight, self._updates[-1][0] if self._updates else -1)
        delta = {n: t.detach().to(device="cpu", dtype=torch.float32) - self._params[n] for n, t in update.items()}
        self._updates.append((client, weight, delta))

    def mean(self) -> State:
        """The rule's mean delta of what was added.

        Raises:
            UpdateError: the updates that are left do not suffice for the rule.
        """
        updates = self._updates
        if self._outlier_factor and len(updates) > 2:
            self.refused = outliers(updates, factor=self._outlier_factor)
            updates = [update for update in updates if update[0] not in self.refused]
        if not updates:
            return {}
        try:
            mean, self.figures = self._combine(self._params, updates)
        except ConfigError as error:  # so few that the rule means nothing: some were refused
            raise UpdateError(str(error)) from error
        return mean


def build_rule(
    config: AggregationConfig,
    params: State,
    presence: Presence,
    on_image_path: Callable[[str], bool] = lambda name: False,
) -> RoundRule:
    """The rule of one round.

    Args:
        config: ``fedmllm.aggregation``.
        params: what the deltas are relative to.
        presence: rows of each client by what they show, for modality-aware weights.
        on_image_path: whether a tensor lies before the image meets the text (vision tower, resampler, projector);
            the model's family knows.
    """
    weighted = config.client_weights in ("balanced", "complete")
    if config.rule == "mean" and config.lora != "exact" and not weighted and not config.outlier_factor:
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
        if config.lora != "exact":
            return reweigh(updates), figures
        if weighted:
            updates = _modality_weighted(updates, presence, config)
        mean, report = exact_lora_mean(params, updates)
        if report:
            figures["lora_residual"] = max(pair.residual for pair in report.values())
            figures["lora_naive"] = max(pair.naive for pair in report.values())
        return mean, figures

    return Cohort(params, combine, outlier_factor=config.outlier_factor)


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
    return frozenset(name for name in params if config.lora != "frozen_a" or not is_frozen(name))
