"""The round's sum where clients mask their updates on their own machines: nothing is added to it in the clear."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

import torch

from fs_fedmllm.algorithms.state import State
from fs_fedmllm.errors import PrivacyError

if TYPE_CHECKING:
    from fs_fedmllm.privacy.secure_aggregation.policy import Policy
    from fs_fedmllm.privacy.secure_aggregation.server import SecureServer

#: The one tensor of a masked update: int32, the words of the vector and its weight.
MASKED = "masked"


class MaskedSum:
    """Takes masked updates and gives the mean that the protocol unmasks; the interface of ``RunningMean``.

    Args:
        server: the protocol's server, whose clients have exchanged their keys and shares; None refuses every update.
        policy: how the sum becomes a mean.
    """

    #: See :class:`fs_fedmllm.aggregators.Aggregator`.
    whole = False
    refused: Mapping[int, str] = MappingProxyType({})
    figures: Mapping[str, float] = MappingProxyType({})

    def __init__(self, server: SecureServer | None = None, policy: Policy | None = None):
        self._server = server
        self._policy = policy

    def add(self, client: int, weight: float, update: Mapping[str, torch.Tensor]) -> None:
        """Add a masked update; its weight is within it.

        Raises:
            PrivacyError: it is not masked, or the protocol has no place for it.
        """
        if self._server is None or set(update) != {MASKED}:
            raise PrivacyError(
                f"Client {client} sent its update in the clear, but fedmllm.privacy.secure_aggregation is on. Give "
                "server and clients the same release and configuration."
            )
        self._server.add_masked(client, update[MASKED].numpy().view("uint32"))

    def mean(self) -> State:
        """What was unmasked; empty before any update was taken.

        Raises:
            PrivacyError: fewer clients than the threshold helped to unmask it.
        """
        if self._server is None or self._policy is None:
            return {}
        return self._policy.mean(self._server.total())
