"""The round's sum where clients mask their updates on their own machines: nothing is added to it in the clear."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import torch

from fs_fedmllm.algorithms.state import State
from fs_fedmllm.errors import PrivacyError


class MaskedSum:
    """Waits for the mean that the protocol unmasks; the interface of ``RunningMean``.

    Args:
        mean: name -> mean difference; empty before it is known.
    """

    #: See :class:`fs_fedmllm.aggregators.Aggregator`.
    whole = False
    refused: Mapping[int, str] = MappingProxyType({})
    figures: Mapping[str, float] = MappingProxyType({})

    def __init__(self, mean: State | None = None):
        self._mean = mean or {}

    def add(self, client: int, weight: float, update: Mapping[str, torch.Tensor]) -> None:
        """No update may come here.

        Raises:
            PrivacyError: always.
        """
        raise PrivacyError(
            f"Client {client} sent its update in the clear, but fedmllm.privacy.secure_aggregation is on. Give server "
            "and clients the same release and configuration."
        )

    def mean(self) -> State:
        """What was unmasked."""
        return self._mean
