"""``fs-fedmllm run --engine federatedscope``: FederatedScope's own main, with our types registered."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

from fs_fedmllm.errors import HostError
from fs_fedmllm.extras import require_extra
from fs_fedmllm.hosts.federatedscope.checkout import find_federatedscope


def run_in_federatedscope(config: Path, overrides: Sequence[str]) -> int:
    """Run a configuration in FederatedScope's runner, in this process.

    Args:
        config: the YAML file.
        overrides: ``key value`` pairs.

    Raises:
        HostError: there is no FederatedScope on this machine.
    """
    import importlib.util

    checkout = None
    if importlib.util.find_spec("federatedscope") is None:
        checkout = find_federatedscope()
        if checkout is None:
            raise HostError(
                "There is no FederatedScope to run in. Clone it and name the folder with FEDERATEDSCOPE_HOME, or run "
                "'fs-fedmllm plug <checkout>' once; or use --engine embedded, which gives the same adapter."
            )
    require_extra("fs", "FederatedScope", error=HostError)
    if checkout is not None:
        sys.path.insert(0, str(checkout))
    from fs_fedmllm.hosts.federatedscope import compat

    compat.apply_fixes()
    from federatedscope.core.configs.config import global_cfg

    from fs_fedmllm.hosts.federatedscope.config_bridge import extend_config
    from fs_fedmllm.hosts.federatedscope.register import register_all

    register_all()
    if "fedmllm" not in global_cfg:  # a plugged checkout has extended it already
        extend_config(global_cfg)
    sys.argv = ["federatedscope/main.py", "--cfg", str(config), *overrides]
    runpy.run_module("federatedscope.main", run_name="__main__", alter_sys=True)
    return 0
