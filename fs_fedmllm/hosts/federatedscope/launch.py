"""``fs-fedmllm run --engine federatedscope``: FederatedScope's own main, with our types registered."""

from __future__ import annotations

import runpy
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from fs_fedmllm.config import unknown_key
from fs_fedmllm.errors import ConfigError, HostError
from fs_fedmllm.extras import require_extra
from fs_fedmllm.hosts.federatedscope.checkout import find_federatedscope, is_importable
from fs_fedmllm.hosts.federatedscope.given import as_read


def run_in_federatedscope(configuration: Mapping[str, Any], path: Path) -> int:
    """Run a configuration in FederatedScope's runner, in this process.

    It goes into a file: FederatedScope's command line takes every word that begins with "client" for something else.

    Args:
        configuration: nested, as :func:`fs_fedmllm.config.host_mapping` gives it.
        path: the file that it comes from, for messages and for the run's name.

    Raises:
        HostError: there is no FederatedScope on this machine.
        ConfigError: a key that FederatedScope does not know.
    """
    checkout = None
    if not is_importable():
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
    from fs_fedmllm.hosts.federatedscope.own_log import keep_log_in_file
    from fs_fedmllm.hosts.federatedscope.register import register_all

    register_all()
    if "fedmllm" not in global_cfg:  # a plugged checkout has extended it already
        extend_config(global_cfg)
    keep_log_in_file()
    with tempfile.TemporaryDirectory() as folder:
        merged = Path(folder) / path.name
        text = yaml.safe_dump(as_read({**configuration, "cfg_file": str(path)}), sort_keys=False)
        merged.write_text(text, encoding="utf-8")
        sys.argv = ["federatedscope/main.py", "--cfg", str(merged)]
        try:
            runpy.run_module("federatedscope.main", run_name="__main__", alter_sys=True)
        except KeyError as error:
            _, mark, key = str(error.args[0] if error.args else "").partition("Non-existent config key: ")
            if not mark:
                raise
            raise ConfigError(f"{path}: {unknown_key(key)}") from error
    return 0
