"""``fs-fedmllm audit``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from fs_fedmllm.commands.output import print_document
from fs_fedmllm.errors import ConfigError


def add(commands: Any) -> None:
    """Add ``audit`` to the command line's grammar."""
    audit = commands.add_parser("audit", help="attack a finished run, to see what it gives away")
    verbs = audit.add_subparsers(dest="verb", required=True, metavar="WHAT")
    privacy = verbs.add_parser("privacy", help="tell rows that were trained on from rows that were not")
    privacy.add_argument("run", help="folder of a run on one machine; its data set is read again")
    privacy.add_argument("--which", choices=("last", "best"), default="last",
                         help="the last round's adapter (default) or the best round's")  # fmt: skip
    privacy.add_argument("--limit", type=int, default=0, help="most rows of each kind; 0 takes all (default)")
    privacy.add_argument("--json", action="store_true", help="print JSON")
    privacy.set_defaults(function=_privacy)


def _privacy(args: argparse.Namespace) -> int:
    if args.limit < 0:
        raise ConfigError("--limit must be 0, for all rows, or a number of them.")
    from fs_fedmllm.tools.audit.membership import audit, told

    found = audit(Path(args.run), args.which, args.limit)
    print_document(json.dumps(found.as_dict(), indent=2) if args.json else told(found))
    return 0
