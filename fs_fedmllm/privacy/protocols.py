"""Where the extra ``privacy`` begins: what needs its packages is imported from here on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fs_fedmllm.algorithms.state import State
from fs_fedmllm.config.privacy import PrivacyConfig
from fs_fedmllm.errors import PrivacyError
from fs_fedmllm.extras import require_extra

if TYPE_CHECKING:
    from fs_fedmllm.privacy.secure_aggregation.in_process import SecureSum


def secure_sum(
    privacy: PrivacyConfig, expected: int, params: State, clients: Sequence[int], weight_bound: int
) -> SecureSum:
    """A round under secure aggregation, with all clients in this process.

    Args:
        privacy: ``fedmllm.privacy``.
        expected: clients in a round by configuration.
        params: the global adapter.
        clients: the round's, ascending.
        weight_bound: the largest weight of one of them.

    Raises:
        PrivacyError: the package cryptography is missing.
    """
    require_extra("privacy", "fedmllm.privacy.secure_aggregation", "cryptography", error=PrivacyError)
    from fs_fedmllm.privacy.secure_aggregation.in_process import SecureSum
    from fs_fedmllm.privacy.secure_aggregation.policy import Policy

    return SecureSum(params, clients, Policy.of(privacy, expected, params, len(clients), weight_bound))
