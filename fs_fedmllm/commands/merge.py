"""``fs-fedmllm merge``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_base_options(parser: argparse.ArgumentParser) -> None:
    """Options of every command that loads an adapter into its base."""
    parser.add_argument("adapter", help="an adapter's folder, or hub:owner/name@revision")
    parser.add_argument("--base", default="", help="folder or hub id of the base, where the adapter's is elsewhere")
    parser.add_argument("--dtype", default="", choices=("", "float32", "bfloat16", "float16"),
                        help="precision of the base; otherwise that of the training")  # fmt: skip
    parser.add_argument("--gpu", action="store_true", help="use an accelerator")
    parser.add_argument("--trust-remote-code", action="store_true", help="run code that comes with the base")


def add(commands: Any) -> None:
    """Add ``merge`` to the command line's grammar."""
    merge = commands.add_parser("merge", help="write the base with the adapter merged in")
    add_base_options(merge)
    merge.add_argument("--out", required=True, help="folder of the checkpoint; made, or empty")
    merge.add_argument("--full-precision", action="store_true", help="leave the training's quantisation away")
    merge.set_defaults(function=_merge)


def _merge(args: argparse.Namespace) -> int:
    from fs_fedmllm.tools.adapters.merge import merge
    from fs_fedmllm.tools.adapters.opening import open_adapter

    opened = open_adapter(
        args.adapter, base=args.base, dtype=args.dtype, use_gpu=args.gpu, trust_remote_code=args.trust_remote_code,
        full_precision=args.full_precision,
    )  # fmt: skip
    done = merge(opened, Path(args.out))
    print(f"{done.folder}: {opened.base} with the adapter merged in, and its processor")
    print(f"largest difference of a logit, over {done.tokens} tokens of a fixed text:")
    print(f"  adapter against bare base  {done.adapter_effect:.3e}")
    print(f"  merged against adapter     {done.merged:.3e}")
    print(f"  read back against adapter  {done.reloaded:.3e}, {done.flipped} tokens choose another next token")
    return 0
