"""The commands ``fs-fedmllm data check | split | export | show | plot``. Heavy imports happen inside them."""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from fs_fedmllm.commands.targets import Rows, read_target, target_config
from fs_fedmllm.data.client_names import called, client_by
from fs_fedmllm.errors import ConfigError, DataError, FedMLLMError, printable

if TYPE_CHECKING:
    from fs_fedmllm.config import Config
    from fs_fedmllm.data.findings import Finding
    from fs_fedmllm.data.sample import Dataset, Sample
    from fs_fedmllm.data.template import Template
    from fs_fedmllm.scenarios.federated_data import FederatedData
    from fs_fedmllm.scenarios.test_sets import NamedTestSet

CASES = ("both", "image", "text", "neither")
EXIT_FINDINGS = 1


def add(commands: Any) -> None:
    """Add ``data`` to the command line's grammar."""
    data = commands.add_parser("data", help="check, split, browse and plot data sets")
    verbs = data.add_subparsers(dest="verb", required=True, metavar="VERB")

    check = _targeted(verbs, "check", "validate every row and image; exit code 1 if there are errors")
    check.add_argument("--decode", action=argparse.BooleanOptionalAction, default=True,
                       help="decode every image whole (default); --no-decode reads headers only")  # fmt: skip
    check.add_argument("--baseline", action="store_true", help="fit the question-only baseline too (seconds)")
    check.add_argument("--model", nargs="?", const="", metavar="PATH",
                       help="count tokens a row with this model's processor, or with the configuration's model; "
                       "no weights are loaded")  # fmt: skip
    check.add_argument("--most", type=int, default=50, help="findings to print (default 50)")
    check.set_defaults(function=_check)

    split = _targeted(verbs, "split", "apply a scenario and write the manifest and the clients' files")
    split.add_argument("--out", default="split", help="folder to write to (default split)")
    split.add_argument("--from-manifest", help="take the clients from this manifest in place of drawing them")
    split.add_argument("--per-client-folders", action="store_true",
                       help="a folder per client with its rows and images, so that it reads nothing else")  # fmt: skip
    split.add_argument("--images", choices=("link", "copy"), default="link", help="hard links (default) or copies")
    split.set_defaults(function=_split)

    export = _targeted(verbs, "export", "write the clients' rows in another program's form")
    export.add_argument("--format", choices=("trl",), required=True, help="trl: a folder per client for trl sft")
    export.add_argument("--out", default="export", help="folder to write to (default export)")
    export.add_argument("--from-manifest", help="take the clients from this manifest in place of drawing them")
    export.set_defaults(function=_export)

    show = _targeted(verbs, "show", "browse rows and their prompt as the model sees it")
    show.add_argument("--client", help="rows of this client (its id or its name), as it may see them")
    show.add_argument("--split", choices=("train", "val", "test"), default="train", help="without --client")
    show.add_argument("--case", choices=CASES, help="only rows that show this")
    show.add_argument("-n", type=int, default=3, help="rows (default 3)")
    show.add_argument("--plain", action="store_true",
                      help="the template's words alone, without chat template and placeholder (quicker)")  # fmt: skip
    show.add_argument("--skip", type=int, default=0, help="rows to pass over first")
    show.set_defaults(function=_show)

    plot = _targeted(verbs, "plot", "draw who holds what, as PNG and SVG")
    plot.add_argument("--out", default="plots", help="folder to write to (default plots)")
    plot.add_argument("--from-manifest", help="take the clients from this manifest in place of drawing them")
    plot.add_argument("--embedding", action="store_true",
                      help="also embed vision and text features in two dimensions (loads the model)")  # fmt: skip
    plot.add_argument("--rows", type=int, default=60, help="rows of a client in the embedding (default 60)")
    plot.set_defaults(function=_plot)


def _targeted(verbs: Any, name: str, says: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(name, help=says)
    parser.add_argument("config", metavar="TARGET",
                        help="a configuration (a .yaml, or the name of one that ships), a folder of your own data, or "
                        "the name of a data set with its folder next")  # fmt: skip
    parser.add_argument("overrides", nargs="*",
                        help="key=value or key value; beside rows alone also their reader's options")  # fmt: skip
    return parser


def _check(args: argparse.Namespace) -> int:
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
    from fs_fedmllm.data.template import load_template
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


def table(header: Sequence[str], rows: Iterable[Sequence[object]], left: Sequence[int] = (0,)) -> str:
    """Text columns; those of ``left`` to the left, the others, numbers mostly, to the right."""
    cells = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]

    def line(row: Sequence[str]) -> str:
        placed = (c.ljust(w) if i in left else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        return "  ".join(placed).rstrip()

    return "\n".join(map(line, cells))


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
    from fs_fedmllm.data.template import load_template

    template = load_template(dataset.template)
    if template.task != "choice":
        return ""
    counts = label_counts(dataset, template)
    return table(
        ["label", *counts],
        [[printable(name), *(f"{counts[split][name]:,}" for split in counts)] for name in template.options],
    )


def federated(config: Config, manifest: str | None = None) -> FederatedData:
    """The data after the scenario: drawn, or as a manifest records it; further test sets are no part of it.

    Raises:
        ScenarioError: the manifest was made from other files or rows.
    """
    import dataclasses

    from fs_fedmllm.scenarios.federated_data import counted, prepare_data, recorded_data

    config = dataclasses.replace(config, fedmllm=dataclasses.replace(config.fedmllm, test_sets={}))
    return prepare_data(*counted(config)) if manifest is None else recorded_data(config, manifest)


def _dealt(args: argparse.Namespace) -> tuple[Config, FederatedData, Path]:
    """The rows of every client, and a folder for them that holds no other split; its manifest is written."""
    from fs_fedmllm.files.atomic import private_folder
    from fs_fedmllm.scenarios.manifest import read_manifest, write_manifest

    config = target_config(args.config, args.overrides)
    data = federated(config, args.from_manifest)
    out = Path(args.out)
    private_folder(out)
    kept = out / "manifest.json"
    if kept.exists() and read_manifest(kept).sha256 != data.manifest.sha256:
        raise ConfigError(f"{out} holds another split; name another folder with --out, or remove it.")
    write_manifest(data.manifest, kept)
    return config, data, out


def _split(args: argparse.Namespace) -> int:
    from fs_fedmllm.data.client_folders import SERVER, place_template, write_client, write_server
    from fs_fedmllm.data.records import write_records
    from fs_fedmllm.scenarios.reading import template_of

    config, data, out = _dealt(args)
    asked = template_of(config, data.dataset)
    for client, rows in data.clients.items():
        if args.per_client_folders:
            record = data.manifest.clients.get(client)
            head = {
                "client": client,
                **({"name": data.names[client]} if client in data.names else {}),
                "clients": len(data.manifest.clients),
                "dataset": data.dataset.name,
                "scenario": data.manifest.scenario,
                "beta": record.beta if record else None,
                "manifest_sha256": data.manifest.sha256,
            }
            write_client(out / f"client_{client}", rows, data.template, head, images=args.images,
                         variant=config.fedmllm.prompt)  # fmt: skip
            place_template(out / f"client_{client}", asked)
        else:
            write_records(rows, out / f"client_{client}.json", data.template, config.fedmllm.prompt)
    if args.per_client_folders:
        head = {
            "dataset": data.dataset.name,
            "clients": len(data.manifest.clients),
            "manifest_sha256": data.manifest.sha256,
        }
        splits = {"val": data.dataset.val, "test": data.dataset.test}
        write_server(out / SERVER, splits, data.template, head, images=args.images)
        place_template(out / SERVER, asked)
    print(client_table(data.clients, data.names))
    print(f"scenario {data.manifest.scenario}, seed {data.manifest.seed}, manifest sha256 {data.manifest.sha256}")
    print(f"written to {out}")
    return 0


def _export(args: argparse.Namespace) -> int:
    from fs_fedmllm.sft.export import write_split

    config, data, out = _dealt(args)
    variant = config.fedmllm.prompt
    for client, rows in data.clients.items():
        write_split(out / f"client_{client}", "train", rows, data.template, variant)
    for split, rows in (("val", data.dataset.val), ("test", data.dataset.test)):
        if rows:
            write_split(out / "server", split, rows, data.template, variant)
    print(client_table(data.clients, data.names))
    for said in _beside_trl(config, data.template):
        print(said)
    print(f"written to {out}; for example: trl sft --dataset_name {out / 'client_1'} --model_name_or_path ...")
    return 0


def _beside_trl(config: Config, template: Template) -> list[str]:
    """In what TRL's own script would train the configuration's model on other tokens than a run here does."""
    from fs_fedmllm.errors import ModelError
    from fs_fedmllm.models.encoding import Encoder
    from fs_fedmllm.models.skeleton import skeleton
    from fs_fedmllm.sft.export import differences

    path = config.model.fedmllm.path
    try:
        encoder = Encoder(skeleton(config.model.fedmllm), template, config.fedmllm.prompt, None)
    except ModelError as error:
        return [f"What TRL makes of these rows was not compared with what a run trains on: {error}"]
    told = differences(encoder.completions, encoder.mllm.tokenizer)
    return [f"With {path}, TRL's own script {said}." for said in told]


def client_table(clients: Mapping[int, Sequence[Sample]], names: Mapping[int, str] = MappingProxyType({})) -> str:
    """Rows of each client by what they show.

    Args:
        clients: rows by id.
        names: what the data calls them, by id.
    """
    rows = []
    for client, samples in sorted(clients.items()):
        shown = Counter(sample.presence for sample in samples)
        rows.append([called(client, names), f"{len(samples):,}", *(f"{shown[case]:,}" for case in CASES)])
    return table(["client", "rows", *CASES], rows)


def _show(args: argparse.Namespace) -> int:
    from fs_fedmllm.data.template import load_template
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
    prompts = [(template.prompt(row, config.fedmllm.prompt), row.answer) for row in shown]
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


def _plot(args: argparse.Namespace) -> int:
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
