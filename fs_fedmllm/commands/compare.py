"""``fs-fedmllm compare``."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fs_fedmllm.commands.merge import add_which, chosen_adapter
from fs_fedmllm.commands.output import print_document
from fs_fedmllm.errors import ConfigError, printable

if TYPE_CHECKING:
    from fs_fedmllm.tools.adapters.compare import Comparison


def add(commands: Any) -> None:
    """Add ``compare`` to the command line's grammar."""
    compare = commands.add_parser("compare", help="two adapters side by side: settings, tensors, products")
    for name in ("first", "second"):
        compare.add_argument(name, help="an adapter's folder, a run folder, or hub:owner/name@revision")
    add_which(compare)
    compare.add_argument("--json", action="store_true", help="print JSON")
    compare.set_defaults(function=_compare)


def _bases_said(found: Comparison) -> str:
    """Whether both have one base, and by what that is known."""
    one, two = (repr(name) if name else "not named" for name in found.bases)
    if found.told_by == "weights":
        return f"{'same base' if found.same_base else 'DIFFERENT bases'}, by fingerprints of their weights"
    if found.told_by == "names":
        which = f"same base, {one}" if found.same_base else f"DIFFERENT bases, {one} and {two}"
        return f"{which}, by name alone: not both have a fingerprint of its weights (base_sha256 in fedmllm.json)"
    return f"whether the bases are the same is not known: that of the first is {one}, of the second {two}"


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
    print(printable(_bases_said(found)))
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
