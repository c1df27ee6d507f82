"""What takes a round's updates in ascending client order and gives their mean delta.

The plain mean is a running sum, one adapter in memory (:mod:`fs_fedmllm.aggregators.mean`); the rules that need all
updates at once keep them in a :class:`BufferedAggregator`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Protocol

import torch

from fs_fedmllm.aggregators.mean import check_client, delta_to
from fs_fedmllm.aggregators.robust import outliers
from fs_fedmllm.aggregators.updates import Updates
from fs_fedmllm.algorithms.state import State
from fs_fedmllm.errors import ConfigError, UpdateError


class Aggregator(Protocol):
    """What averages one round: the plain mean, a robust rule, a clipped, a masked or a secure sum."""

    #: Whether it compares whole updates, so that one that lacks a name would make it fail for all.
    whole: bool

    #: Clients that ``mean`` left out, and why.
    refused: Mapping[int, str]
    #: What it has to say about the round, for the log.
    figures: Mapping[str, float]

    def add(self, client: int, weight: float, update: Mapping[str, torch.Tensor]) -> None:
        """Add one client's parameters; clients come in ascending order."""

    def mean(self) -> State:
        """The mean delta; names that nobody sent are absent."""


#: (global parameters, the round's updates) -> mean delta and figures for the log.
Combine = Callable[[State, Updates], tuple[State, dict[str, float]]]


class BufferedAggregator:
    """Keeps the round's deltas and combines them at the end.

    Args:
        params: the global parameters.
        combine: the rule.
        outlier_factor: leave out deltas longer than so many times the median norm; 0 is off.
    """

    whole = True

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
        self._updates.append((client, weight, delta_to(self._params, update)))

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
