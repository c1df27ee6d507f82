"""Where the extra ``privacy`` begins: what needs its packages is imported from here on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fs_fedmllm.algorithms.state import State
from fs_fedmllm.config import Config
from fs_fedmllm.errors import PrivacyError
from fs_fedmllm.extras import require_extra

if TYPE_CHECKING:
    from fs_fedmllm.privacy.secure_aggregation.in_process import SecureSum


def secure_sum(config: Config, params: State, clients: Sequence[int], weight_bound: int) -> SecureSum:
    """A round under secure aggregation, with all clients in this process.

    Args:
        config: the run's.
        params: the global adapter.
        clients: the round's, ascending.
        weight_bound: the largest weight of one of them.

    Raises:
        PrivacyError: the package cryptography is missing.
    """
    require_extra("privacy", "fedmllm.privacy.secure_aggregation", "cryptography", error=PrivacyError)
    from fs_fedmllm.privacy.secure_aggregation.in_process import SecureSum
    from fs_fedmllm.privacy.secure_aggregation.policy import Policy

    return SecureSum(params, clients, Policy.of(config, params, len(clients), weight_bound))
