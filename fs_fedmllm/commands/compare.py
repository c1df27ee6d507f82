"""``fs-fedmllm compare``."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

from fs_fedmllm.commands.merge import add_which, chosen_adapter
from fs_fedmllm.commands.output import print_document
from fs_fedmllm.errors import ConfigError, printable


def add(commands: Any) -> None:
    """Add ``compare`` to the command line's grammar."""
    compare = commands.add_parser("compare", help="two adapters side by side: settings, tensors, products")
    for name in ("first", "second"):
        compare.add_argument(name, help="an adapter's folder, a run folder, or hub:owner/name@revision")
    add_which(compare)
    compare.add_argument("--json", action="store_true", help="print JSON")
    compare.set_defaults(function=_compare)


def _compare(args: argparse.Namespace) -> int:
    from fs_fedmllm.hub.fetch import adapter_folder, adapter_of_run
    from fs_fedmllm.tools.adapters.compare import Distance, compare

    runs = [place for place in (args.first, args.second) if adapter_of_run(Path(place)) is not None]
    if args.which and not runs:
        raise ConfigError(f"--which {args.which}: neither is a run folder, which has two adapters.")
    folders = []
    for place, key in ((args.first, "the first adapter"), (args.second, "the second adapter")):
        reference = chosen_adapter(place, args.which if place in runs else None, key)
        folders.append(adapter_folder(reference, key))
    found = compare(*folders)
    if args.json:
        print_document(json.dumps(dataclasses.asdict(found), indent=2))
        return 0
    print("same base" if found.same_base else "DIFFERENT bases")
    for name, (one, two) in found.settings.items():
        print(printable(f"{name}: {one!r} and {two!r}"))
    for title, names in (("first", found.only_first), ("second", found.only_second)):
        if names:
            print(printable(f"only the {title} has {len(names)} tensors, for example {names[0]}"))
    for name, (one, two) in found.shapes.items():
        print(printable(f"{name}: shapes {one} and {two}"))

    def line(title: str, d: Distance) -> str:
        cosine = "-" if d.cosine is None else f"{d.cosine:.4f}"
        relative = "-" if d.relative is None else f"{d.relative:.4f}"
        title = printable(title)
        return f"{title:>10}  {d.first:10.4f}  {d.second:10.4f}  {d.distance:10.4f}  {relative:>8}  {cosine:>8}"

    for title, layers, total in (
        ("tensors", found.layers, found.total),
        ("products B A, scaled", found.products, found.product_total),
    ):
        if total is not None:
            print(f"\n{title}\n{'layer':>10}  {'|first|':>10}  {'|second|':>10}  {'distance':>10}  relative    cosine")
            for name, distance in layers.items():
                print(line(name, distance))
            print(line("all", total))
    return 0
