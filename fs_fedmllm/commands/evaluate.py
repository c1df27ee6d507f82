"""``fs-fedmllm evaluate``."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from fs_fedmllm.commands.merge import add_base_options, chosen_adapter
from fs_fedmllm.commands.output import print_document
from fs_fedmllm.commands.targets import target_config
from fs_fedmllm.errors import ConfigError, FedMLLMError, printable

DOCUMENT, PAGE = "evaluation.json", "evaluation.html"


def add(commands: Any) -> None:
    """Add ``evaluate`` to the command line's grammar."""
    evaluate = commands.add_parser("evaluate", help="an adapter on any labelled rows: metrics, slices, calibration")
    add_base_options(evaluate)
    evaluate.add_argument("config", metavar="DATA",
                          help="a configuration, a folder of your own data, or the name of a data set with its folder "
                          "next")  # fmt: skip
    evaluate.add_argument("overrides", nargs="*", help="key=value or key value; beside rows alone their reader's too")
    evaluate.add_argument(
        "--split", choices=("train", "val", "test"), default="test", help="which rows (default test)"
    )
    evaluate.add_argument("--prompt", default="", choices=("", "original", "augmented"), help="prompt variant")
    evaluate.add_argument("--by", action="append", default=[], metavar="KEY",
                          help="slice by a key of the rows, such as a hospital; may be repeated")  # fmt: skip
    evaluate.add_argument("--no-views", action="store_true", help="do not show rows with one of their modalities too")
    evaluate.add_argument("--out", default="evaluation", help="folder to write to (default evaluation)")
    evaluate.add_argument("--json", action="store_true", help="print the document and nothing else")
    evaluate.set_defaults(function=_evaluate)


def _evaluate(args: argparse.Namespace) -> int:
    from fs_fedmllm.data.content import rows_sha256
    from fs_fedmllm.evaluation.predictions import FILE, write_predictions
    from fs_fedmllm.files.atomic import write_atomically
    from fs_fedmllm.hub.fetch import adapter_folder
    from fs_fedmllm.runs.run_folder import check_output
    from fs_fedmllm.runs.verbosity import shows_progress
    from fs_fedmllm.scenarios.reading import read_dataset
    from fs_fedmllm.tools.adapters.evaluate import chosen_rows, evaluate, tensors_sha256
    from fs_fedmllm.tools.adapters.opening import open_adapter
    from fs_fedmllm.tools.report import evaluation as shown

    config, out = target_config(args.config, args.overrides), Path(args.out)
    check_output(args.out)
    dataset = read_dataset(config)
    for warning in dataset.warnings:
        if shows_progress():
            print(printable(warning), file=sys.stderr)
    adapter = chosen_adapter(args.adapter, args.which)
    rows = chosen_rows(config, dataset, args.split)
    _check_out(out, tensors_sha256(adapter_folder(adapter)), rows_sha256(rows))
    opened = open_adapter(
        adapter, base=args.base, dtype=args.dtype, use_gpu=args.gpu or config.use_gpu,
        trust_remote_code=args.trust_remote_code,
    )  # fmt: skip

    def told(what: str) -> None:
        if shows_progress():
            print(f"evaluating {what}", file=sys.stderr, flush=True)

    document, predictions = evaluate(
        opened, config, dataset, split=args.split, prompt=args.prompt, by=args.by, views=not args.no_views, told=told
    )
    out.mkdir(parents=True, exist_ok=True)
    write_predictions(out / FILE, predictions)
    write_atomically(out / PAGE, shown.html(document).encode())
    write_atomically(out / DOCUMENT, (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode())
    if args.json:
        print_document(json.dumps({"folder": str(out), **document}, indent=2, ensure_ascii=False))
    else:
        print(printable(shown.text(document)))
        print(f"written to {out}: {PAGE}, {DOCUMENT}, {FILE}")
    return 0


def _check_out(out: Path, adapter: str, rows: str) -> None:
    """Another evaluation's files are not written over.

    Raises:
        ConfigError: the folder holds one of another adapter or of other rows.
    """
    from fs_fedmllm.files.untrusted import read_json

    if not (out / DOCUMENT).exists():
        return
    try:
        there = read_json(out / DOCUMENT)
        same = (there["adapter_sha256"], there["data"]["content_sha256"]) == (adapter, rows)
    except (OSError, ValueError, LookupError, TypeError, FedMLLMError):
        same = False
    if not same:
        raise ConfigError(f"{out} holds the evaluation of another adapter or of other rows; name a folder with --out.")
