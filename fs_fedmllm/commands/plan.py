"""``fs-fedmllm plan``."""

from __future__ import annotations

import argparse
import dataclasses
import json
from typing import Any

from fs_fedmllm.commands.config import add_client_cfg, overrides_of
from fs_fedmllm.commands.output import print_document
from fs_fedmllm.shipped import find_config


def add(commands: Any) -> None:
    """Add ``plan`` to the command line's grammar."""
    plan = commands.add_parser("plan", help="what a run will need: sizes, traffic, memory, steps, hours")
    plan.add_argument("config", help="a .yaml, or the name of one that ships")
    plan.add_argument("overrides", nargs="*", help="key=value or key value, as for run")
    add_client_cfg(plan)
    plan.add_argument("--probe", action="store_true", help="load the model, take a few steps, measure memory and time")
    plan.add_argument("--online", action="store_true", help="ask the hub for licence, gating and configuration")
    plan.add_argument("--tiny", action="store_true", help="plan with the embedded model")
    plan.add_argument("--json", action="store_true", help="print JSON")
    plan.set_defaults(function=_plan)


def _plan(args: argparse.Namespace) -> int:
    from fs_fedmllm import config as schema

    config = schema.load(find_config(args.config), overrides_of(args), client_cfg=args.client_cfg)
    from fs_fedmllm.tools.planner.plan import make_plan
    from fs_fedmllm.tools.planner.show import table

    plan = make_plan(config, with_probe=args.probe, online=args.online)
    print_document(json.dumps(dataclasses.asdict(plan), indent=2) if args.json else table(plan))
    return 1 if plan.problems else 0
