"""``fs-fedmllm predict``."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from fs_fedmllm.commands.merge import add_base_options, base_options, chosen_adapter
from fs_fedmllm.commands.output import print_document
from fs_fedmllm.errors import ConfigError, printable


def add(commands: Any) -> None:
    """Add ``predict`` to the command line's grammar."""
    predict = commands.add_parser("predict", help="ask an adapter about an image, a text, or a file of them")
    add_base_options(predict)
    predict.add_argument("--image", default="", help="an image file")
    predict.add_argument("--text", default="", help="the text modality")
    predict.add_argument("--question", default="", help="a question of your own; answered in writing")
    predict.add_argument("--file", default="",
                         help="rows (CSV, JSON Lines, ...): image, text, question, id, by these names or "
                         "those of the run; label or answer to be scored")  # fmt: skip
    predict.add_argument("--template", default="", help="name or path of a template; otherwise the training's")
    predict.add_argument("--prompt", default="", choices=("", "original", "augmented"), help="prompt variant")
    predict.add_argument(
        "--combine", default="", choices=("", "joint", "product"),
        help="ask with both modalities, or multiply what each says alone; otherwise as the training says",
    )  # fmt: skip
    predict.add_argument("--batch-size", type=int, default=16, help="rows in one forward pass")
    predict.add_argument("--json", action="store_true", help="print a JSON line for each row")
    predict.set_defaults(function=_predict)


def _predict(args: argparse.Namespace) -> int:
    if bool(args.file) == bool(args.image or args.text or args.question):
        said = "not both" if args.file else "for one row"
        raise ConfigError(f"predict needs --file, or --image, --text or --question, {said}.")
    if args.batch_size < 1:
        raise ConfigError("--batch-size must be at least 1.")
    from fs_fedmllm.data.template_file import load_template
    from fs_fedmllm.tools.adapters.opening import open_adapter
    from fs_fedmllm.tools.adapters.predict import one_row, predict, read_rows
    from fs_fedmllm.tools.adapters.row_files import form_of
    from fs_fedmllm.tools.adapters.score import read_truths, said_right, score
    from fs_fedmllm.tools.adapters.trained_rows import trained_on

    form = form_of(args.adapter)
    rows = read_rows(Path(args.file), form) if args.file else [one_row(args.image, args.text, args.question)]
    opened = open_adapter(chosen_adapter(args.adapter, args.which), **base_options(args))
    answers = predict(
        opened, rows, template=args.template, prompt=args.prompt, batch_size=args.batch_size, combine=args.combine
    )
    asked = opened.description.template if opened.description is not None else None
    asked = load_template(args.template) if args.template else asked
    scored = score(answers, read_truths(Path(args.file), form), asked) if args.file else None
    for index, answer in enumerate(answers):
        if args.json or args.file:
            print_document(json.dumps({**dataclasses.asdict(answer), **said_right(scored, index)}, ensure_ascii=False))
            continue
        print(printable(answer.answer))
        for name, share in sorted((answer.probabilities or {}).items(), key=lambda item: -item[1]):
            print(f"  {share:7.2%}  {printable(name)}")
    if scored is not None:
        sys.stdout.flush()
        labelled = [row for row, right in zip(rows, scored.right, strict=True) if right is not None]
        scored = dataclasses.replace(scored, trained=trained_on(args.adapter, labelled))
        print(printable(scored.said()), file=sys.stderr)  # rows go to standard output, a line each
    return 0
