"""``fs-fedmllm config``, and where every command looks for a configuration."""

from __future__ import annotations

import argparse
from typing import Any


def add(commands: Any) -> None:
    """Add ``config`` to the command line's grammar."""
    config = commands.add_parser("config", help="explain every key, or print a resolved configuration")
    config.add_argument("file", nargs="?", help="a .yaml to resolve")
    config.add_argument("overrides", nargs="*", help="key=value or key value, as for run")
    add_client_cfg(config)
    config.set_defaults(function=_config)


def add_client_cfg(command: Any) -> None:
    """Let a command take FederatedScope's file of clients' own settings."""
    command.add_argument(
        "--client_cfg", "--client-cfg", metavar="FILE",
        help="clients' own learning rate, steps and batch size, in FederatedScope's form (client_1: ...)",
    )  # fmt: skip


def overrides_of(args: argparse.Namespace) -> list[str]:
    """The command line's overrides, those that ``--tiny`` stands for before them."""
    if not args.tiny:
        return list(args.overrides)
    from fs_fedmllm.config.overrides import TINY

    return [*TINY, *args.overrides]


def _config(args: argparse.Namespace) -> int:
    from fs_fedmllm import config as schema

    if args.file:
        import yaml

        from fs_fedmllm.shipped import find_config

        config = schema.load(find_config(args.file), args.overrides, client_cfg=args.client_cfg)
        print(yaml.safe_dump(schema.to_mapping(config), sort_keys=False))
        return 0
    for name, kind, default, doc in schema.describe():
        print(f"{name} ({kind}, default {default})\n    {doc}")
    return 0
