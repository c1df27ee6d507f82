"""``fs-fedmllm merge``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from fs_fedmllm.errors import ConfigError, printable


def add_base_options(parser: argparse.ArgumentParser) -> None:
    """Options of every command that loads an adapter into its base."""
    parser.add_argument("adapter", help="an adapter's folder, a run folder, or hub:owner/name@revision")
    add_which(parser)
    parser.add_argument("--base", default="", help="folder or hub id of the base, where the adapter's is elsewhere")
    parser.add_argument("--dtype", default="", choices=("", "float32", "bfloat16", "float16"),
                        help="precision of the base; otherwise that of the training")  # fmt: skip
    parser.add_argument("--gpu", action="store_true", help="use an accelerator")
    parser.add_argument("--trust-remote-code", action="store_true", help="run code that comes with the base")


def base_options(args: argparse.Namespace) -> dict[str, Any]:
    """What they say, as :func:`fs_fedmllm.tools.adapters.opening.open_adapter` takes it."""
    return {"base": args.base, "dtype": args.dtype, "use_gpu": args.gpu, "trust_remote_code": args.trust_remote_code}


def add_which(parser: argparse.ArgumentParser) -> None:
    """Let a command that takes a run folder say which of its adapters is meant."""
    parser.add_argument("--which", choices=("best", "last", "average"),
                        help="of a run folder: the best round's adapter (default), the last round's, or the mean of "
                        "the last rounds' where the run kept it")  # fmt: skip


def chosen_adapter(reference: str, which: str | None, key: str = "the adapter") -> str:
    """An adapter as the user names it; where that is a run folder, its adapter, which is said on standard error.

    Raises:
        ConfigError: ``--which`` beside an adapter itself.
        HubError: it cannot be fetched.
        ModelError: there is none.
    """
    from fs_fedmllm.hub.fetch import adapter_folder
    from fs_fedmllm.hub.names import PREFIX
    from fs_fedmllm.runs.verbosity import shows_progress

    found = adapter_folder(reference, key, which or "best")
    if not reference.startswith(PREFIX) and found not in (Path(reference), Path(reference).parent):
        if shows_progress():
            print(f"{key}: {found}", file=sys.stderr)
    elif which:
        raise ConfigError(f"--which {which}: {reference} is an adapter, not a run folder with two.")
    return reference if reference.startswith(PREFIX) else str(found)


def add(commands: Any) -> None:
    """Add ``merge`` to the command line's grammar."""
    merge = commands.add_parser("merge", help="write the base with the adapter merged in")
    add_base_options(merge)
    merge.add_argument("--out", required=True, help="folder of the checkpoint, new or empty")
    merge.add_argument("--full-precision", action="store_true", help="load the base unquantised")
    merge.set_defaults(function=_merge)


def _merge(args: argparse.Namespace) -> int:
    from fs_fedmllm.tools.adapters.merge import merge
    from fs_fedmllm.tools.adapters.opening import open_adapter

    adapter = chosen_adapter(args.adapter, args.which)
    opened = open_adapter(adapter, **base_options(args), full_precision=args.full_precision)
    done = merge(opened, Path(args.out))
    other = " (not the adapter's own base)" if opened.other else ""
    print(printable(f"{done.folder}: {opened.base}{other} with the adapter merged in, and its processor"))
    print(f"largest difference of a logit, over {done.tokens} tokens of a fixed text:")
    print(f"  adapter against bare base  {done.adapter_effect:.3e}")
    print(f"  merged against adapter     {done.merged:.3e}")
    print(f"  read back against adapter  {done.reloaded:.3e}, {done.flipped} tokens choose another next token")
    return 0
