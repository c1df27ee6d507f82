"""``fs-fedmllm data show | plot``: rows as the model sees them, and pictures of who holds what."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from fs_fedmllm.commands.data_split import federated
from fs_fedmllm.commands.targets import target_config
from fs_fedmllm.data.client_names import called, client_by
from fs_fedmllm.data.sample import Sample
from fs_fedmllm.errors import ConfigError, DataError, printable


def show(args: argparse.Namespace) -> int:
    """Print rows and their prompts."""
    from fs_fedmllm.data.template_file import load_template
    from fs_fedmllm.scenarios.reading import read_dataset, template_of

    config = target_config(args.config, args.overrides)
    rows: Sequence[Sample]
    if args.client is None:
        dataset = read_dataset(config)
        template, rows, of = load_template(template_of(config, dataset)), getattr(dataset, args.split), args.split
    else:
        data = federated(config)
        client = client_by(args.client, data.names)
        if client is None or client not in data.clients:
            known = [called(each, data.names) for each in sorted(data.clients)]
            more = ", ..." if len(known) > 20 else ""
            there = ", ".join(known[:20]) + more if data.names else f"1 to {known[-1]}"
            raise ConfigError(f"There is no client {args.client}; there are {there}.")
        template, rows, of = data.template, data.clients[client], f"client {called(client, data.names)}"
    chosen = [row for row in rows if args.case in (None, row.presence)]
    if not chosen:
        raise DataError(f"No row of {of} shows {args.case}.")
    shown = chosen[max(0, args.skip) : max(0, args.skip) + max(0, args.n)]
    prompts = [(template.prompt(row, config.fedmllm.prompt), template.answer_of(row)) for row in shown]
    if not args.plain and shown:
        from fs_fedmllm.errors import ModelError
        from fs_fedmllm.models.seen_prompts import seen_prompts

        try:
            prompts = list(seen_prompts(config, template, shown))
        except ModelError as error:
            print(f"Without the model's chat template and image placeholder: {error}", file=sys.stderr)
    for number, (row, (prompt, learnt)) in enumerate(zip(shown, prompts, strict=True), max(0, args.skip) + 1):
        lines = [f"--- {of}, row {number} of {len(chosen):,}: id {row.id}, shows {row.presence}, {row.source}"]
        if row.image is not None:
            lines.append(f"image: {row.image}")
        lines += [prompt, f"=> {learnt}"]
        lines[-1] += f"  ({row.kind})" if row.kind else ""
        print(printable("\n".join(lines)))
    return 0


def plot(args: argparse.Namespace) -> int:
    """Draw who holds what."""
    from fs_fedmllm.tools.report.plots import draw_all

    config = target_config(args.config, args.overrides)
    data = federated(config, args.from_manifest)
    features = None
    if args.embedding:
        from fs_fedmllm.tools.report.embedding import client_features

        features = client_features(config, data, args.rows)
    for path in draw_all(data, Path(args.out), features=features, seed=config.seed):
        print(path)
    return 0
