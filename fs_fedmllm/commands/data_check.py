"""``fs-fedmllm data check``: every row and image looked at, and what was found."""

from __future__ import annotations

import argparse
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fs_fedmllm.commands.tables import client_table, table
from fs_fedmllm.commands.targets import Rows, read_target
from fs_fedmllm.data.sample import CASES
from fs_fedmllm.errors import ConfigError, FedMLLMError, printable

if TYPE_CHECKING:
    from fs_fedmllm.config import Config
    from fs_fedmllm.data.findings import Finding
    from fs_fedmllm.data.sample import Dataset, Sample
    from fs_fedmllm.scenarios.test_sets import NamedTestSet

EXIT_FINDINGS = 1


def check(args: argparse.Namespace) -> int:
    """Look at every row and image, and print what was found; the exit code."""
    from fs_fedmllm.commands.further_sets import check_test_sets, labels_of
    from fs_fedmllm.data.check import inspect
    from fs_fedmllm.data.findings import as_finding
    from fs_fedmllm.data.grouping import grouped
    from fs_fedmllm.scenarios.federated_data import counted_in, deal_data
    from fs_fedmllm.scenarios.reading import client_column, dataset_options, named_groups

    found, config, groups, limit = read_target(args.config, args.overrides), None, list[str](), (0.0, "")
    by_client = ""
    if isinstance(found, Rows):
        name, root, options = found.name, found.root, found.options
        config = found.config() if found.keys else None
    else:
        config, name, root, options = found, found.data.type, found.data.root, dataset_options(found)
    if config is not None:
        limit, groups, by_client = _widest(config), named_groups(config), client_column(config)
    dataset, findings = inspect(
        name, root, options, decode=args.decode, widest=limit[0], family=limit[1], groups=groups, by_client=by_client
    )
    dealt, further = None, dict[str, Any]()
    if config is not None and dataset is not None:
        further, own = check_test_sets(config, dataset, decode=args.decode, widest=limit[0], family=limit[1])
        findings = sorted([*findings, *own], key=lambda f: ("error", "warning", "note").index(f.severity))
    if config is not None and dataset is not None and not any(f.severity == "error" for f in findings):
        try:
            dealt = deal_data(counted_in(config, dataset), dataset)
        except FedMLLMError as error:
            findings.insert(0, as_finding(error))
    print(findings_table(grouped([finding for finding in findings if finding.severity != "note"]), args.most))
    if dataset is not None:
        print(_counts(dataset, further))
        if said := _labels(dataset):
            print(said)
    for line in labels_of(further):
        print(line)
    if dealt is not None:
        print(client_table(dealt.clients, dealt.names))
    for finding in findings:
        if finding.severity == "note":
            print(f"{finding.file}: {finding.problem}")
    errors, warnings = (sum(f.severity == kind for f in findings) for kind in ("error", "warning"))
    print(f"{name}: {errors} errors, {warnings} warnings")
    if dataset is not None and args.model is not None:
        print(_tokens(dataset, args.model, config))
    if dataset is not None and args.baseline:
        print(f"question-only baseline: {_baseline(dataset)}")
    return EXIT_FINDINGS if errors else 0


def _tokens(dataset: Dataset, path: str, config: Config | None) -> str:
    """Tokens of a data set's rows by a model's processor, and how it shows images."""
    import dataclasses

    from fs_fedmllm.config import Config as Defaults
    from fs_fedmllm.data.template_file import load_template
    from fs_fedmllm.evaluation.options import options_of
    from fs_fedmllm.models.encoding import Encoder
    from fs_fedmllm.models.image_tokens import image_facts
    from fs_fedmllm.models.lengths import configured_lengths
    from fs_fedmllm.models.row_tokens import count_tokens, said_tokens, too_dear
    from fs_fedmllm.models.skeleton import skeleton
    from fs_fedmllm.scenarios.reading import template_of

    if not path and config is None:
        raise ConfigError("data check of a data set by its name needs the model's folder: --model PATH.")
    config = config or Defaults()
    options = config.model.fedmllm
    mllm = skeleton(dataclasses.replace(options, path=path) if path else options)
    template = load_template(template_of(config, dataset))
    encoder = Encoder(mllm, template, config.fedmllm.prompt, None, configured_lengths(config, mllm))
    options_of(encoder)  # refuses options that this tokenizer cannot tell apart
    found = count_tokens(encoder, [*dataset.train, *dataset.val, *dataset.test])
    lines = [f"tokens with {path or options.path}: {said_tokens(found)}"]
    if "image" in found:
        facts = ", ".join(
            f"{name} {value}" for name, value in image_facts(mllm.processor, mllm.image_arguments).items()
        )
        lines.append(f"images are shown with {facts}")
    return "\n".join([*lines, *filter(None, [too_dear(found)])])


def _widest(config: Config) -> tuple[float, str]:
    """The longest image that the configuration's model takes, and its family; nothing is downloaded for it."""
    file = Path(config.model.fedmllm.path) / "config.json"
    if not file.is_file():
        return 0.0, ""
    from fs_fedmllm.files.untrusted import read_json
    from fs_fedmllm.models.families import family_of

    try:
        family = family_of(read_json(file)["model_type"])
    except (OSError, ValueError, KeyError, TypeError):  # loading it says better what is wrong
        return 0.0, ""
    return family.widest, family.name


def _baseline(dataset: Dataset) -> str:
    from fs_fedmllm.evaluation.question_only import question_only

    figures = question_only(dataset.train, dataset.test)
    if not figures:
        return "none, because training or test rows have no questions"
    return ", ".join(f"{name} {100 * value:.1f} %" for name, value in figures.items())


def findings_table(findings: Sequence[Finding], most: int) -> str:
    """Severity, place, problem and remedy, wrapped for the terminal; errors first."""
    margin = " " * 9
    wrapper = textwrap.TextWrapper(
        width=100, initial_indent=margin, subsequent_indent=margin, break_long_words=False, break_on_hyphens=False
    )
    lines = []
    for finding in findings[:most]:
        place = f"{finding.file}:{finding.row}" if finding.row else finding.file
        lines.append(f"{finding.severity:<8} {place}")
        for text in (finding.problem, finding.remedy):
            if text:
                lines += wrapper.wrap(text)
    if len(findings) > most:
        lines.append(f"... and {len(findings) - most:,} more (--most shows them)")
    return "\n".join(lines) or "nothing is wrong"


def _counts(dataset: Dataset, further: Mapping[str, NamedTestSet]) -> str:
    splits: dict[str, Sequence[Sample]] = {"train": dataset.train, "val": dataset.val, "test": dataset.test}
    splits |= {f"test set {name}": test_set.rows for name, test_set in further.items()}
    rows = []
    for split, samples in splits.items():
        shown = Counter(sample.presence for sample in samples)
        kinds = Counter(sample.kind for sample in samples if sample.kind)
        said = ", ".join(f"{count:,} {kind}" for kind, count in sorted(kinds.items()))
        rows.append([split, f"{len(samples):,}", *(f"{shown[case]:,}" for case in CASES), said])
    return table(["split", "rows", *CASES, "kinds"], rows)


def _labels(dataset: Dataset) -> str:
    """Rows of each split by label; nothing where rows are not labelled."""
    from fs_fedmllm.data.overlap import label_counts
    from fs_fedmllm.data.template_file import load_template

    template = load_template(dataset.template)
    if template.task != "choice":
        return ""
    counts = label_counts(dataset, template)
    return table(
        ["label", *counts],
        [[printable(name), *(f"{counts[split][name]:,}" for split in counts)] for name in template.options],
    )
