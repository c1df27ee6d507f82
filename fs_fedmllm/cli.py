"""The command line: ``fs-fedmllm``."""

from __future__ import annotations

import argparse
import os
import select
import sys
from collections.abc import Iterator, Sequence

from fs_fedmllm.commands import (
    certs,
    compare,
    config,
    data,
    doctor,
    judge,
    merge,
    nvflare,
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
from fs_fedmllm.runs.verbosity import add_verbosity, apply_verbosity
from fs_fedmllm.version import VERSION

EXIT_USER_ERROR = 2
#: What a shell reports of a program that SIGPIPE ended.
EXIT_READER_GONE = 141
#: One module per command, in the order of ``--help``.
COMMANDS = (
    run,
    sweep,
    report,
    plan,
    sites,
    nvflare,
    certs,
    data,
    judge,
    compare,
    merge,
    predict,
    push,
    config,
    doctor,
    plug,
)


def build_parser() -> argparse.ArgumentParser:
    """The command line's grammar."""
    parser = argparse.ArgumentParser(
        prog="fs-fedmllm",
        description="Federated fine-tuning of multimodal large language models when clients lack modalities.",
    )
    parser.add_argument("--version", action="version", version=VERSION)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add(commands)
    for leaf in _leaves(parser):
        add_verbosity(leaf)
    return parser


def _leaves(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """The parsers of the commands; of one that has verbs, its verbs'."""
    # argparse names its actions with an underscore and offers no other way to them.
    below = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    if not below:
        yield parser
    for action in below:
        for name in action.choices:
            yield from _leaves(action.choices[name])


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code: 0, or 2 for what the user can put right."""
    try:
        try:
            return _run(argv)
        finally:
            sys.stdout.flush()  # here, where a reader that has gone can be told from other errors
    except BrokenPipeError:
        if not _reader_is_gone():
            raise
        return EXIT_READER_GONE


def _reader_is_gone() -> bool:
    """Whether nobody reads our output any more (``| head``); if so, what is left of it goes nowhere."""
    gone = False
    for stream in (sys.stdout, sys.stderr):
        asked = select.poll()
        asked.register(stream.fileno(), 0)
        if any(event & select.POLLERR for _, event in asked.poll(0)):
            gone = True
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())  # the interpreter flushes once more when it ends
            os.close(nowhere)
    return gone


def _run(argv: Sequence[str] | None) -> int:
    parser = build_parser()
    # Overrides may stand before and after options; argparse collects them in one place only.
    args, more = parser.parse_known_args(argv)
    if more:
        if not hasattr(args, "overrides") or any(word.startswith("--") for word in more):
            parser.error(f"unrecognized arguments: {' '.join(more)}")
        args.overrides += more
    apply_verbosity(args)
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
