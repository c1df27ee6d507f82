"""The command line: ``fs-fedmllm``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from fs_fedmllm import __version__
from fs_fedmllm.commands import (
    certs,
    compare,
    config,
    data,
    doctor,
    judge,
    merge,
    plan,
    plug,
    predict,
    push,
    report,
    run,
    sites,
    sweep,
)
from fs_fedmllm.errors import FedMLLMError

EXIT_USER_ERROR = 2
#: One module per command, in the order of ``--help``.
COMMANDS = (run, sweep, report, plan, sites, certs, data, judge, compare, merge, predict, push, config, doctor, plug)


def build_parser() -> argparse.ArgumentParser:
    """The command line's grammar."""
    parser = argparse.ArgumentParser(
        prog="fs-fedmllm",
        description="Federated fine-tuning of multimodal large language models when clients lack modalities.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code: 0, or 2 for what the user can put right."""
    parser = build_parser()
    # Overrides may stand before and after options; argparse collects them in one place only.
    args, more = parser.parse_known_args(argv)
    if more:
        if not hasattr(args, "overrides") or any(word.startswith("--") for word in more):
            parser.error(f"unrecognized arguments: {' '.join(more)}")
        args.overrides += more
    try:
        return int(args.function(args))
    except FedMLLMError as error:
        print(f"fs-fedmllm: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    except OSError as error:
        if error.filename is None:
            raise
        print(f"fs-fedmllm: {error.filename} cannot be read or written: {error.strerror}.", file=sys.stderr)
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        print("fs-fedmllm: interrupted; the same command resumes from the last checkpoint.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
