# PYTHON_ARGCOMPLETE_OK
"""The command line: ``fs-fedmllm``."""

from __future__ import annotations

import argparse
import os
import re
import select
import sys
from collections.abc import Iterator, Sequence

from fs_fedmllm.commands import (
    audit,
    certs,
    compare,
    config,
    data,
    doctor,
    evaluate,
    init,
    judge,
    merge,
    nvflare,
    plan,
    plug,
    predict,
    push,
    report,
    run,
    runs,
    sites,
    sweep,
)
from fs_fedmllm.commands.completion import complete
from fs_fedmllm.commands.output import documents_only
from fs_fedmllm.errors import ConfigError, FedMLLMError
from fs_fedmllm.quoting import shell_word
from fs_fedmllm.runs.verbosity import add_verbosity, verbosity
from fs_fedmllm.shipped import licence_text
from fs_fedmllm.version import VERSION

EXIT_USER_ERROR = 2
#: What a shell reports of a program that SIGPIPE ended.
EXIT_READER_GONE = 141
#: What a shell reports of a program that SIGINT ended.
EXIT_INTERRUPTED = 130
#: Commands that go on where they were interrupted.
RESUMABLE = ("run", "server", "client", "sweep", "judge")
#: One module per command, in the order of ``--help``.
COMMANDS = (
    *(init, run, runs, sweep, report, plan, sites, nvflare, certs, data, judge),
    *(audit, compare, merge, predict, evaluate, push, config, doctor, plug),
)


def build_parser() -> argparse.ArgumentParser:
    """The command line's grammar."""
    parser = argparse.ArgumentParser(
        prog="fs-fedmllm",
        description="Federated fine-tuning of multimodal large language models when clients lack modalities.",
    )
    parser.add_argument("--version", action="version", version=VERSION)
    parser.add_argument("--license", "--licence", action=_Licence)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add(commands)
    for leaf in _leaves(parser):
        add_verbosity(leaf)
    return parser


class _Licence(argparse.Action):
    """``--license``: the licence's name and text, and nothing else."""

    def __init__(self, option_strings: Sequence[str], dest: str, **_: object):
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, default=argparse.SUPPRESS,
                         help="print the licence of this package and exit")  # fmt: skip

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        print(f"fs-fedmllm {VERSION}: Apache-2.0\n\n{licence_text()}".rstrip())
        parser.exit()


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
    except KeyboardInterrupt:  # before a command has begun, or after it has ended
        return EXIT_INTERRUPTED


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


def _meant(args: argparse.Namespace, more: Sequence[str], options: Sequence[str]) -> str:
    """What to say of options that are a configuration's keys; empty where one of them is none."""
    from fs_fedmllm.config import known_keys
    from fs_fedmllm.config.common_names import BESIDE, meant_key

    known, whole = known_keys(), []
    for option in options:
        key = meant_key(option, known)
        if not key:
            return ""
        value = option.partition("=")[2]
        after = more[more.index(option) + 1 :][:1]
        said = value or next((word for word in after if word not in options), "...")
        whole.append(shell_word(f"{key}={said}"))
        if beside := BESIDE.get(option.lstrip("-").partition("=")[0].replace("-", "_")):
            whole.append(beside)
    listed = f"{' and '.join(options)} {'is not an option' if len(options) == 1 else 'are not options'}"
    return (
        f"{listed} of fs-fedmllm {args.command}: a configuration's keys are written without dashes, "
        f"{' '.join(whole)}. fs-fedmllm config explains every key."
    )


def _run(argv: Sequence[str] | None) -> int:
    parser = build_parser()
    if "_ARGCOMPLETE" in os.environ:  # a shell asks what may follow
        complete(parser, _leaves(parser))
    # Overrides may stand before and after options; argparse collects them in one place only.
    args, more = parser.parse_known_args(argv)
    options = [word for word in more if re.match("--?[A-Za-z]", word)]
    if more and not hasattr(args, "overrides"):
        parser.error(f"unrecognized arguments: {' '.join(more)}")
    with verbosity(args):
        return _answered(parser, args, more, options)


def _answered(
    parser: argparse.ArgumentParser, args: argparse.Namespace, more: list[str], options: Sequence[str]
) -> int:
    """Run the command, and say in one paragraph what the user can put right."""
    try:
        if options:
            if said := _meant(args, more, options):
                raise ConfigError(said)
            parser.error(f"unrecognized arguments: {' '.join(more)}")
        if more:
            args.overrides += more
        with documents_only(getattr(args, "json", False)):
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
        goes_on = "; the same command resumes from the last checkpoint" if args.command in RESUMABLE else ""
        print(f"fs-fedmllm: interrupted{goes_on}.", file=sys.stderr)
        return EXIT_INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
