"""The command line: ``fs-fedmllm``.

Heavy imports happen inside the commands, so that ``--help`` and configuration errors answer at once.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fs_fedmllm import __version__
from fs_fedmllm.errors import ConfigError, FedMLLMError

if TYPE_CHECKING:
    from fs_fedmllm.hosts.federatedscope.plug import PlugStatus

EXIT_USER_ERROR = 2


def find_config(name: str) -> Path:
    """A configuration by path, or one that ships with the package by name (``configs/cross_i3t7.yaml``).

    Raises:
        ConfigError: there is no such file.
    """
    path = Path(name)
    if path.is_file():
        return path
    package = Path(__file__).resolve().parent
    wanted = Path(*[part for part in path.parts if part != "configs"]).with_suffix(".yaml")
    for folder in (package / "configs", package.parent / "configs"):
        if (folder / wanted).is_file():
            return folder / wanted
    raise ConfigError(f"No configuration {name!r}: neither a file here nor one that ships with fs-fedmllm.")


def _run(args: argparse.Namespace) -> int:
    started = time.perf_counter()
    path = find_config(args.config)
    if args.tiny:
        from fs_fedmllm.presets import TINY

        args.overrides = [*TINY, *args.overrides]
    engine = args.engine
    if engine == "auto":
        import importlib.util

        engine = "federatedscope" if importlib.util.find_spec("federatedscope") else "embedded"
    from fs_fedmllm import config as schema

    config = schema.load(path, args.overrides, host=engine == "federatedscope")
    if engine == "federatedscope":
        from fs_fedmllm.hosts.federatedscope.launch import run_in_federatedscope

        try:
            # FederatedScope reads its command line as Python, we as YAML: [{alpha: 1.0}], true.
            values = [(word, schema.parse_override(word)) for word in args.overrides[1::2]]
            args.overrides[1::2] = [word if isinstance(value, str) else repr(value) for word, value in values]
            return run_in_federatedscope(path, args.overrides)
        except (KeyError, AssertionError) as error:  # from a file the former, from the command line the latter
            found = re.fullmatch(r"Non-existent (?:config )?key: (\S+)", str(error.args[0]) if error.args else "")
            if found is None:
                raise
            raise ConfigError(f"{path}: {schema.unknown_key(found.group(1))}") from error
    if config.federate.mode != "standalone":
        raise ConfigError("federate.mode must be standalone: runs of ours across machines are not available yet.")
    from fs_fedmllm.report.console import ConsoleProgress, closing_table
    from fs_fedmllm.simulation import run

    progress = ConsoleProgress(config)
    try:
        results, folder = run(config, listener=progress, started=started, label=path.stem)
    finally:
        progress.close()
    print(closing_table(results, str(folder.path)))
    return 0


def _plug(args: argparse.Namespace) -> int:
    from fs_fedmllm.hosts.federatedscope import plug

    return _tell((plug.status if args.status else plug.plug)(args.checkout))


def _unplug(args: argparse.Namespace) -> int:
    from fs_fedmllm.hosts.federatedscope import plug

    return _tell(plug.unplug(args.checkout))


def _tell(status: PlugStatus) -> int:
    print(status.summary())
    return 0


def _config(args: argparse.Namespace) -> int:
    from fs_fedmllm import config as schema

    if args.file:
        import yaml

        print(yaml.safe_dump(schema.to_mapping(schema.load(find_config(args.file), args.overrides)), sort_keys=False))
        return 0
    for name, kind, default, doc in schema.describe():
        print(f"{name} ({kind}, default {default})\n    {doc}")
    return 0


def build_parser() -> argparse.ArgumentParser:
    """The command line's grammar."""
    parser = argparse.ArgumentParser(
        prog="fs-fedmllm",
        description="Federated fine-tuning of multimodal large language models when clients lack modalities.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="run a configuration")
    run.add_argument("config", help="a .yaml, or the name of one that ships, e.g. configs/cross_i3t7.yaml")
    run.add_argument("overrides", nargs="*", help="key value pairs, e.g. federate.total_round_num 3 seed 7")
    run.add_argument("--engine", choices=("auto", "embedded", "federatedscope"), default="auto",
                     help="auto takes FederatedScope where it can be imported")  # fmt: skip
    run.add_argument("--tiny", action="store_true", help="swap in the embedded model, to try a preset out on a CPU")
    run.set_defaults(function=_run)

    plug = commands.add_parser("plug", help="make a FederatedScope checkout know our jobs")
    plug.add_argument("checkout", help="folder of the checkout")
    plug.add_argument("--status", action="store_true", help="only say what is plugged")
    plug.set_defaults(function=_plug)

    unplug = commands.add_parser("unplug", help="undo plug, exactly")
    unplug.add_argument("checkout", help="folder of the checkout")
    unplug.set_defaults(function=_unplug)

    from fs_fedmllm.data_commands import add_data_commands

    add_data_commands(commands)

    config = commands.add_parser("config", help="explain every key, or print a resolved configuration")
    config.add_argument("file", nargs="?", help="a .yaml to resolve")
    config.add_argument("overrides", nargs="*", help="key value pairs")
    config.set_defaults(function=_config)
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
