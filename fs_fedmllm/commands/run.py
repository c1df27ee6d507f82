"""``fs-fedmllm run``."""

from __future__ import annotations

import argparse
import time
from typing import Any

from fs_fedmllm.commands.config import add_client_cfg, overrides_of
from fs_fedmllm.errors import ConfigError
from fs_fedmllm.shipped import find_config


def add(commands: Any) -> None:
    """Add ``run`` to the command line's grammar."""
    run = commands.add_parser("run", help="run a configuration")
    run.add_argument("config", help="a .yaml, or the name of one that ships, e.g. configs/cross_i3t7.yaml")
    run.add_argument("overrides", nargs="*", help="key value pairs, e.g. federate.total_round_num 3 seed 7")
    run.add_argument("--engine", choices=("auto", "embedded", "federatedscope", "nvflare"), default="auto",
                     help="auto: federatedscope where it can be imported, else embedded")  # fmt: skip
    add_client_cfg(run)
    run.add_argument("--tiny", action="store_true", help="swap in the embedded model, to try a preset out on a CPU")
    run.set_defaults(function=_run)


def _run(args: argparse.Namespace) -> int:
    started = time.perf_counter()
    path, words = find_config(args.config), overrides_of(args)
    engine = args.engine
    if engine == "auto":
        from fs_fedmllm.hosts.federatedscope.checkout import is_importable

        engine = "federatedscope" if is_importable() else "embedded"
    from fs_fedmllm import config as schema

    raw = schema.given_mapping(path, words, args.client_cfg)
    config = schema.from_mapping(raw, str(path), host=engine == "federatedscope")
    if engine == "federatedscope":
        from fs_fedmllm.hosts.federatedscope.launch import run_in_federatedscope

        return run_in_federatedscope(schema.host_mapping(config, raw), path)
    if engine == "nvflare":
        from fs_fedmllm.hosts.nvflare.simulate import run_simulated
        from fs_fedmllm.runs.console import closing_table

        found, place = run_simulated(config, raw, path)
        print(closing_table(found, str(place)))
        return 0
    if config.federate.mode != "standalone":
        raise ConfigError(
            "federate.mode must be standalone: each site of a run across machines is started by itself, with "
            "fs-fedmllm server and fs-fedmllm client."
        )
    from fs_fedmllm.runs.console import ConsoleProgress, closing_table
    from fs_fedmllm.runs.simulation import run
    from fs_fedmllm.scenarios.federated_data import counted

    config, dataset = counted(config)
    progress = ConsoleProgress(config)
    try:
        results, folder = run(config, listener=progress, started=started, label=path.stem, dataset=dataset)
    finally:
        progress.close()
    print(closing_table(results, str(folder.path)))
    return 0
