"""``fs-fedmllm plug`` and ``unplug``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fs_fedmllm.hosts.federatedscope.plug import PlugStatus


def add(commands: Any) -> None:
    """Add ``plug`` and ``unplug`` to the command line's grammar."""
    plug = commands.add_parser("plug", help="make a FederatedScope checkout know our jobs")
    plug.add_argument("checkout", help="folder of the checkout")
    plug.add_argument("--status", action="store_true", help="only say what is plugged")
    plug.set_defaults(function=_plug)

    unplug = commands.add_parser("unplug", help="undo plug, exactly")
    unplug.add_argument("checkout", help="folder of the checkout")
    unplug.set_defaults(function=_unplug)


def _plug(args: argparse.Namespace) -> int:
    from fs_fedmllm.hosts.federatedscope import plug

    return _tell((plug.status if args.status else plug.plug)(args.checkout))


def _unplug(args: argparse.Namespace) -> int:
    from fs_fedmllm.hosts.federatedscope import plug

    return _tell(plug.unplug(args.checkout))


def _tell(status: PlugStatus) -> int:
    print(status.summary())
    return 0
