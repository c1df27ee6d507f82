"""``fs-fedmllm runs``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fs_fedmllm.commands.output import print_document
from fs_fedmllm.commands.tables import table
from fs_fedmllm.errors import printable
from fs_fedmllm.text_columns import cut

if TYPE_CHECKING:
    from fs_fedmllm.runs.listing import Listed

#: Characters of what a run differs in that a line of the table holds.
_WIDE = 100


def add(commands: Any) -> None:
    """Add ``runs`` to the command line's grammar."""
    runs = commands.add_parser("runs", help="list runs: status, best figure, how their configurations differ")
    runs.add_argument("folder", nargs="?", default="exp", help="folder that contains the runs (default exp)")
    runs.add_argument("--status", choices=("finished", "running", "resumable", "stopped", "diverged"),
                      help="only runs with this status")  # fmt: skip
    runs.add_argument("--json", action="store_true", help="print JSON")
    runs.set_defaults(function=_runs)


def _runs(args: argparse.Namespace) -> int:
    from fs_fedmllm.runs.listing import list_runs, with_differences

    found = list_runs(Path(args.folder))
    if args.status:
        found = with_differences([run for run in found if run.status == args.status])
    if args.json:
        print_document(json.dumps([run.to_dict() for run in found], indent=2, ensure_ascii=False, default=str))
        return 0
    if not found:
        print(f"no {args.status + ' ' if args.status else ''}runs below {args.folder}")
        return 0
    head = ["run", "status", "rounds", "best", "changed (UTC)", "differs"]
    print(table(head, [_row(run, args) for run in found], left=(0, 1, 3, 4, 5)))
    return 0


def _row(run: Listed, args: argparse.Namespace) -> list[str]:
    try:
        name = str(run.folder.relative_to(args.folder))
    except ValueError:
        name = str(run.folder)
    best = "" if run.best is None else f"{run.metric} {run.best:.4f} (round {run.best_round})"
    said = " ".join(f"{name}={_value(value)}" for name, value in run.differs.items())
    of = f"{run.done}/{run.rounds}" if run.rounds else str(run.done)
    return [printable(text) for text in (name, run.status, of, best, run.changed, cut(said, _WIDE))]


def _value(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text if text and " " not in text else f"'{text}'"
