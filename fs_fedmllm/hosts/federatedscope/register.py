"""Everything that FederatedScope learns from us, in one call.

FederatedScope's plug file imports this module before FederatedScope builds its global config, so nothing heavy may
be imported here: registries hold functions, and those import what they need when they are called.
"""

from __future__ import annotations

from fs_fedmllm.hosts.federatedscope import compat


def register_all() -> None:
    """Make FederatedScope run beside today's packages and register our types with it; idempotent."""
    compat.apply_fixes()
