"""Secure aggregation with all clients in one process: the embedded engine and FederatedScope's standalone mode.

Every message of the protocol is made and read as between machines, so the adapter has the bytes of a distributed run
with the same clients. It hides nothing from the process that it runs in; it is there to measure and to test.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import torch

from fs_fedmllm.algorithms.state import State
from fs_fedmllm.errors import UpdateError
from fs_fedmllm.privacy.secure_aggregation.client import SecureClient
from fs_fedmllm.privacy.secure_aggregation.policy import Policy
from fs_fedmllm.privacy.secure_aggregation.server import SecureServer


class SecureSum:
    """A round's sum under secure aggregation; the interface of ``RunningMean``.

    Args:
        params: the global parameters, name -> float32 tensor.
        clients: the round's clients, ascending.
        policy: how updates become vectors and the sum a mean.
    """

    #: See :class:`fs_fedmllm.aggregators.Aggregator`.
    whole = False
    refused: Mapping[int, str] = MappingProxyType({})
    figures: Mapping[str, float] = MappingProxyType({})

    def __init__(self, params: State, clients: Sequence[int], policy: Policy):
        self._params = params
        self._policy = policy
        self._clients = {client: SecureClient(client) for client in clients}
        self.server = SecureServer(policy.threshold, policy.codec.words)
        for client, side in self._clients.items():
            self.server.add_keys(client, side.keys())
        self.server.close_keys()
        for client, side in self._clients.items():
            self.server.add_shares(client, side.shares(self.server.session, self.server.roster, policy.threshold))
        self.server.close_shares()

    def add(self, client: int, weight: float, update: Mapping[str, torch.Tensor]) -> None:
        """A client's turn at its masked update; one that never comes has dropped out.

        Args:
            client: id.
            weight: rows, or 1.
            update: the client's parameters.

        Raises:
            UpdateError: the client cannot send this; it has dropped out.
        """
        try:
            vector = self._policy.vector(client, self._params, update, int(weight))
        except UpdateError as error:
            raise UpdateError(f"Client {client}: {error}") from error
        server = self.server
        masked = self._clients[client].masked(server.sealed_for(client), vector, server.commitments_for(client))
        server.add_masked(client, masked)

    def mean(self) -> State:
        """Unmask the sum; empty if nobody sent anything.

        Raises:
            PrivacyError: clients sent something, but fewer than the threshold.
        """
        if not self.server.survivors:
            return {}
        survivors = self.server.close_masked()
        for client in survivors:
            self.server.add_unmask(client, self._clients[client].unmask(survivors))
        return self._policy.mean(self.server.total())
