"""``fs-fedmllm evaluate``."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fs_fedmllm.commands.merge import add_base_options, base_options, chosen_adapter
from fs_fedmllm.commands.output import print_document
from fs_fedmllm.commands.targets import Rows, read_target
from fs_fedmllm.errors import ConfigError, FedMLLMError, printable

if TYPE_CHECKING:
    from fs_fedmllm.config import Config

DOCUMENT, PAGE = "evaluation.json", "evaluation.html"


def add(commands: Any) -> None:
    """Add ``evaluate`` to the command line's grammar."""
    evaluate = commands.add_parser("evaluate", help="an adapter on any labelled rows: metrics, slices, calibration")
    add_base_options(evaluate)
    evaluate.add_argument("config", metavar="DATA",
                          help="a configuration, a folder of your own data (asked and read as the adapter's run has "
                          "it), or the name of a data set with its folder next")  # fmt: skip
    evaluate.add_argument(
        "overrides", nargs="*", help="key=value or key value; without a configuration also the reader's options"
    )
    evaluate.add_argument(
        "--split", choices=("train", "val", "test"), default="test", help="which rows (default test)"
    )
    evaluate.add_argument("--prompt", default="", choices=("", "original", "augmented"), help="prompt variant")
    evaluate.add_argument("--by", action="append", default=[], metavar="KEY",
                          help="slice by a key of the rows, such as a hospital; may be repeated")  # fmt: skip
    evaluate.add_argument("--no-views", action="store_true", help="do not evaluate with one modality hidden")
    evaluate.add_argument("--out", default="evaluation", help="folder to write to (default evaluation)")
    evaluate.add_argument("--json", action="store_true", help="print the document and nothing else")
    evaluate.set_defaults(function=_evaluate)


def _evaluate(args: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory() as prompts:
        return _evaluated(args, Path(prompts))


def _evaluated(args: argparse.Namespace, prompts: Path) -> int:
    """Evaluate.

    Args:
        args: of the command line.
        prompts: an empty folder, for the adapter's prompts where the rows are asked them.
    """
    from fs_fedmllm.data.content import rows_sha256
    from fs_fedmllm.evaluation.predictions import FILE, write_predictions
    from fs_fedmllm.files.atomic import write_atomically
    from fs_fedmllm.hub.fetch import adapter_folder
    from fs_fedmllm.runs.run_folder import check_output
    from fs_fedmllm.runs.verbosity import shows_progress
    from fs_fedmllm.scenarios.reading import read_dataset
    from fs_fedmllm.tools.adapters.evaluate import chosen_rows, evaluate, tensors_sha256
    from fs_fedmllm.tools.adapters.opening import open_adapter
    from fs_fedmllm.tools.adapters.trained_rows import trained_on
    from fs_fedmllm.tools.report import evaluation as shown

    out, found = Path(args.out), read_target(args.config, args.overrides)
    check_output(args.out)
    adapter = chosen_adapter(args.adapter, args.which)
    config, taken = _rows_of(args, found, adapter, prompts) if isinstance(found, Rows) else (found, {})
    if taken and shows_progress():
        print(printable(shown.said_taken(taken)), file=sys.stderr)
    dataset = read_dataset(config)
    for warning in dataset.warnings:
        if shows_progress():
            print(printable(warning), file=sys.stderr)
    rows = chosen_rows(config, dataset, args.split)
    _check_out(out, tensors_sha256(adapter_folder(adapter)), rows_sha256(rows))
    opened = open_adapter(adapter, **base_options(args) | {"use_gpu": args.gpu or config.use_gpu})

    def told(what: str) -> None:
        if shows_progress():
            print(f"evaluating {what}", file=sys.stderr, flush=True)

    document, predictions = evaluate(
        opened, config, dataset, split=args.split, prompt=args.prompt, by=args.by, views=not args.no_views, told=told
    )
    document |= {"taken_over": taken, "trained_on": trained_on(args.adapter, rows).as_dict()}
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


def _rows_of(args: argparse.Namespace, found: Rows, adapter: str, prompts: Path) -> tuple[Config, dict[str, Any]]:
    """The configuration of rows alone, and what it takes over from the adapter and its run."""
    from fs_fedmllm.hub.fetch import adapter_folder
    from fs_fedmllm.models.adapter_folder import read_description
    from fs_fedmllm.tools.adapters.taken_over import take_over, write_prompts

    if found.name != "own":
        return found.config(), {}
    own = take_over(args.adapter, Path(found.root), found.options)
    options, keys = {**own.options, **found.options}, dict(found.keys)
    if not options.get("template") and not (keys.get("fedmllm") or {}).get("template"):
        description = read_description(adapter_folder(adapter))
        if description is not None:
            options["template"] = str(write_prompts(description, prompts))
            own = dataclasses.replace(own, template=description.template.name)
    if own.together and "data" not in keys:
        options["groups"] = list(dict.fromkeys([*(options.get("groups") or []), *own.together]))
        keys["data"] = {"splitter_args": [{"keep_together": list(own.together)}]}
    else:
        own = dataclasses.replace(own, together=())
    return dataclasses.replace(found, options=options, keys=keys).config(), own.as_dict()


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
