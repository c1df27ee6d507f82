"""``fs-fedmllm init``: from a file or folder of rows to a configuration, a template, and what to run next."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fs_fedmllm.errors import ConfigError, printable
from fs_fedmllm.quoting import shell_option, shell_word

if TYPE_CHECKING:
    from fs_fedmllm.tools.init.looking import Look
    from fs_fedmllm.tools.init.proposal import Doubt, Proposal, Told

_ROLES = {
    "image": "images, or paths of image files",
    "text": "texts",
    "label": "labels of a choice",
    "question": "a question for each row",
    "answer": "answers in words",
    "id": "an id for each row",
    "split": "train, val or test",
    "group": "what stays together, such as a patient",
    "site": "clients, such as hospitals",
}


def add(commands: Any) -> None:
    """Add ``init`` to the command line's grammar."""
    init = commands.add_parser("init", help="look at your own rows and write a configuration for them")
    init.add_argument("path", help="a file of rows (CSV, TSV, JSON Lines, JSON, Parquet) or their folder")
    init.add_argument("--out", default="my.yaml", help="configuration to write (default my.yaml); its template goes "
                      "beside it")  # fmt: skip
    init.add_argument("-y", "--yes", action="store_true", help="write what is proposed, and ask nothing")
    init.add_argument("--force", action="store_true", help="overwrite existing files")
    for role, says in _ROLES.items():
        init.add_argument(f"--{role}", metavar="COLUMN", help=f"the column with {says}; '' for none")
    init.add_argument("--task", choices=("choice", "vqa"), help="options to choose from, or answers in words")
    init.add_argument("--options", help="the options, with commas between, in the order of their numbers")
    init.add_argument("--ask", help="the question that every row is asked")
    init.add_argument("--val", type=float, help="share of the rows for validation (default 0.1)")
    init.add_argument("--test", type=float, help="share of the rows for the test (default 0.2)")
    init.add_argument("--clients", type=int, help="distribute rows over this many clients at random "
                      "(default: one for each hospital or site, else 4)")  # fmt: skip
    init.add_argument("--encoding", default="", help="of a CSV or TSV file that is not UTF-8, such as cp1252 (Excel "
                      "on Windows)")  # fmt: skip
    init.add_argument("--delimiter", default="", help="between two cells of it: a character, or comma, semicolon, "
                      "tab, bar (default: detected)")  # fmt: skip
    init.set_defaults(function=_init)


def _init(args: argparse.Namespace) -> int:
    from fs_fedmllm.data.client_names import shown_name
    from fs_fedmllm.data.table_form import table_form
    from fs_fedmllm.tools.init.looking import look
    from fs_fedmllm.tools.init.trying import Trial, tried

    terminal = sys.stdin.isatty() and sys.stdout.isatty()
    out = Path(args.out)
    if out.suffix not in (".yaml", ".yml"):
        raise ConfigError(f"--out {args.out}: a configuration's name ends in .yaml.")
    if not out.parent.is_dir():
        raise ConfigError(f"--out {args.out}: there is no folder {out.parent}.")
    template = out.with_name(f"{out.stem}_template.yaml")
    there = [str(path) for path in (out, template) if os.path.lexists(path)]
    if there and not args.force:
        raise ConfigError(
            f"{' and '.join(there)} {'is' if len(there) == 1 else 'are'} there already. Name another file with --out, "
            "or write over it with --force."
        )
    told, found = _told(args), look(Path(args.path), table_form(args.delimiter, args.encoding))
    read = f"the first {found.total:,} rows" if not found.whole else f"{found.total:,} rows"
    print(f"Read {read} of {', '.join(shown_name(source.path.name) for source in found.sources)}; columns: "
          f"{', '.join(map(shown_name, found.columns))}")  # fmt: skip
    for note in found.notes:
        print(printable(note))
    proposal, told = _settled(found, told, terminal and not args.yes)
    trial = Trial()
    if found.whole:
        proposal, trial = tried(proposal, found, told)
    print(_shown(proposal))
    if trial:
        print(printable("\n".join(["Not all is well with the rows yet.", *trial.lines(found.total + found.refused)])))
    if not args.yes and not terminal:
        raise ConfigError(
            "Nothing was written: init asks before it writes, and this is not a terminal. Say --yes to have what is "
            "proposed above written; --label and the like say otherwise."
        )
    if not args.yes and not _agreed(f"Write {out} and {template}?"):
        print("nothing was written")
        return 1
    _write(args, found, proposal, out, template)
    print(f"\nwritten: {out}, {template}\n")
    print("\n".join(next_lines(str(out), wrong_rows=trial.rows, wrong=bool(trial))))
    return 1 if trial else 0


def next_lines(config: str, *, wrong_rows: int, wrong: bool) -> list[str]:
    """What to do next: the commands, and before them what has to be repaired.

    Args:
        config: path of the configuration.
        wrong_rows: rows that a run would refuse.
        wrong: whether it would refuse anything.
    """
    from fs_fedmllm.tools.init.writing import next_steps

    check, *others = next_steps(config)
    if not wrong:
        return ["Next:", *(f"  {line}" for line in (check, *others))]
    what = "the rows above, or take them out" if wrong_rows else f"what is said above, here or in {config}"
    return [
        f"First repair {what}; {config} stays as it is. Then:",
        f"  fs-fedmllm data check {shell_word(config)}  # until it says 0 errors",
        "and go on with:",
        *(f"  {line}" for line in others),
    ]


def _told(args: argparse.Namespace) -> Told:
    from fs_fedmllm.tools.init.proposal import Told

    columns = {role: getattr(args, role) for role in _ROLES if getattr(args, role) is not None}
    named = [name for name in columns.values() if name]
    twice = next((name for name in named if named.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"The column {twice!r} is named for two things; it can be one.")
    shares = {part: getattr(args, part) for part in ("val", "test") if getattr(args, part) is not None}
    for part, share in shares.items():
        if not 0 <= share < 1:
            raise ConfigError(f"--{part} {share:g}: a share of the rows is between 0 and 1, such as 0.2.")
    if args.clients is not None and args.clients < 1:
        raise ConfigError(f"--clients {args.clients}: there is at least one.")
    if args.clients is not None and columns.get("site"):
        raise ConfigError(
            "--clients distributes rows at random, and --site says whose they are. Leave one of them out."
        )
    if args.task == "vqa" and (args.options or columns.get("label")):
        raise ConfigError("--task vqa has answers in words, so --options and --label say nothing. Leave them out.")
    return Told(columns, args.task or "", _options(args.options), args.ask or "", shares, args.clients or 0)


def _options(text: str | None) -> tuple[str, ...]:
    options = tuple(option.strip() for option in text.split(",")) if text is not None else ()
    if text is not None and (len(options) < 2 or not all(options) or len(set(options)) < len(options)):
        raise ConfigError(f"--options {text!r}: name two or more different ones, with commas between.")
    return options


def _settled(found: Look, told: Told, asks: bool) -> tuple[Proposal, Told]:
    """The proposal without doubts: what cannot be told is asked, or refused with the options that answer it."""
    from fs_fedmllm.tools.init.pictures import place_images
    from fs_fedmllm.tools.init.proposing import propose

    while True:
        proposal = propose(found, told)
        place_images(proposal, found)
        if not proposal.doubts:
            return proposal, told
        if not asks:
            print(_shown(proposal))
            said = " ".join(f"{doubt.question} Say {_choices(doubt)}." for doubt in proposal.doubts)
            raise ConfigError(f"Some things cannot be told from the rows. {said}")
        print(_shown(proposal))
        told = _answered(told, proposal.doubts[0])


def _choices(doubt: Doubt) -> str:
    if not doubt.choices:
        return f"--{doubt.option} '...'"
    more = " and so on" if len(doubt.choices) > 8 else ""
    return " or ".join(shell_option(doubt.option, choice) for choice in doubt.choices[:8]) + more


def _answered(told: Told, doubt: Doubt) -> Told:
    while True:
        listed = f" ({', '.join(printable(choice) for choice in doubt.choices)})" if doubt.choices else ""
        try:
            answer = input(f"{doubt.question}{listed} ").strip()
        except EOFError:
            raise ConfigError(f"nobody answered: {doubt.question} Say --{doubt.option}.") from None
        answer = next((choice for choice in doubt.choices if answer in (choice, printable(choice))), answer)
        if answer and (not doubt.choices or answer in doubt.choices):
            break
        print(f"Name one of {', '.join(map(printable, doubt.choices))}." if doubt.choices else "An answer is needed.")
    if doubt.option == "ask":
        return replace(told, ask=answer)
    return replace(told, columns={**told.columns, doubt.option: answer})


def _agreed(question: str) -> bool:
    try:
        return input(f"{question} [Y/n] ").strip().lower() in ("", "y", "yes")
    except EOFError:
        return False


def _shown(proposal: Proposal) -> str:
    """Every guess with its reason, and what the user should know."""
    rows = [[guess.what, printable(guess.value), printable(guess.why)] for guess in proposal.guesses]
    widest = max((len(row[0]) for row in rows), default=0), max((min(len(row[1]), 40) for row in rows), default=0)
    lines = [f"  {what.ljust(widest[0])}  {value.ljust(widest[1])}  {why}".rstrip() for what, value, why in rows]
    return "\n".join([*lines, *(f"Note: {printable(warning)}" for warning in proposal.warnings)])


def _write(args: argparse.Namespace, found: Look, proposal: Proposal, out: Path, template: Path) -> None:
    from fs_fedmllm.files.atomic import write_atomically
    from fs_fedmllm.tools.init.writing import config_yaml, template_yaml

    beside = found.root / template.name
    # A template's name is looked for in the data folder first.
    clash = beside.exists() and beside.resolve() != template.resolve()
    named = str(template.resolve()) if clash else template.name
    about = Path(args.path).resolve().name
    texts = {
        template: template_yaml(proposal, about),
        out: config_yaml(proposal, found, root=_from(out, found.root), template=named, about=about),
    }
    for path, text in texts.items():
        write_atomically(path, text.encode())


def _from(out: Path, root: Path) -> str:
    """The data's folder as the configuration names it: from its own folder on where it lies in there, else in full."""
    home, there = out.parent.resolve(), root.resolve()
    if not there.is_relative_to(home):
        return str(there)
    named = there.relative_to(home)
    elsewhere = (Path.cwd() / named).resolve()
    return str(there) if elsewhere.is_dir() and elsewhere != there else named.as_posix()
