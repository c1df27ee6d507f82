"""The commands ``fs-fedmllm data check | split | export | show | plot``: their grammar."""

from __future__ import annotations

import argparse
from typing import Any

from fs_fedmllm.commands import data_check, data_show, data_split
from fs_fedmllm.commands.counts import at_least
from fs_fedmllm.data.sample import CASES


def add(commands: Any) -> None:
    """Add ``data`` to the command line's grammar."""
    data = commands.add_parser("data", help="check, split, browse and plot data sets")
    verbs = data.add_subparsers(dest="verb", required=True, metavar="VERB")

    check = _targeted(verbs, "check", "validate every row and image; exit code 1 if there are errors")
    check.add_argument("--decode", action=argparse.BooleanOptionalAction, default=True,
                       help="decode every image completely (default); --no-decode reads headers only")  # fmt: skip
    check.add_argument("--baseline", action="store_true", help="fit the question-only baseline too (seconds)")
    check.add_argument("--model", nargs="?", const="", metavar="PATH",
                       help="count tokens a row with this model's processor, or with the configuration's model; "
                       "no weights are loaded")  # fmt: skip
    check.add_argument("--most", type=at_least(0), default=50, help="findings to print (default 50)")
    check.set_defaults(function=data_check.check)

    split = _targeted(verbs, "split", "apply a scenario and write the manifest and the clients' files")
    split.add_argument("--out", default="split", help="folder to write to (default split)")
    split.add_argument("--from-manifest", help="take the clients from this manifest in place of drawing them")
    split.add_argument("--per-client-folders", action="store_true",
                       help="a folder per client with its rows and images, so that it reads nothing else")  # fmt: skip
    split.add_argument("--images", choices=("link", "copy"), default="link", help="hard links (default) or copies")
    split.set_defaults(function=data_split.split)

    export = _targeted(verbs, "export", "write the clients' rows in another program's form")
    export.add_argument("--format", choices=("trl",), required=True, help="trl: a folder per client for trl sft")
    export.add_argument("--out", default="export", help="folder to write to (default export)")
    export.add_argument("--from-manifest", help="take the clients from this manifest in place of drawing them")
    export.set_defaults(function=data_split.export)

    show = _targeted(verbs, "show", "browse rows and their prompt as the model sees it")
    show.add_argument("--client", help="rows of this client (its id or its name), as it may see them")
    show.add_argument("--split", choices=("train", "val", "test"), default="train", help="without --client")
    show.add_argument("--case", choices=CASES, help="only rows that show this")
    show.add_argument("-n", type=at_least(1), default=3, help="rows (default 3)")
    show.add_argument("--plain", action="store_true",
                      help="the template's words alone, without chat template and placeholder (quicker)")  # fmt: skip
    show.add_argument("--skip", type=at_least(0), default=0, help="rows to pass over first")
    show.set_defaults(function=data_show.show)

    plot = _targeted(verbs, "plot", "draw who holds what, as PNG and SVG")
    plot.add_argument("--out", default="plots", help="folder to write to (default plots)")
    plot.add_argument("--from-manifest", help="take the clients from this manifest in place of drawing them")
    plot.add_argument("--embedding", action="store_true",
                      help="also embed vision and text features in two dimensions (loads the model)")  # fmt: skip
    plot.add_argument("--rows", type=at_least(1), default=60, help="rows of a client in the embedding (default 60)")
    plot.set_defaults(function=data_show.plot)


def _targeted(verbs: Any, name: str, says: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(name, help=says)
    parser.add_argument("config", metavar="TARGET",
                        help="a configuration (a .yaml, or the name of one that ships), a folder of your own data, or "
                        "the name of a data set with its folder next")  # fmt: skip
    parser.add_argument("overrides", nargs="*",
                        help="key=value or key value; without a configuration also the reader's options")  # fmt: skip
    return parser
