"""The rows of a run: read, dealt to clients by the scenario, and checked against the prompts."""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from fs_fedmllm.algorithms import REGULARIZERS
from fs_fedmllm.config import Config
from fs_fedmllm.config.checks import check
from fs_fedmllm.config.metric_paths import named_metrics
from fs_fedmllm.config.schema import SPLITS
from fs_fedmllm.data.alike_labels import alike_sentences
from fs_fedmllm.data.content import rows_sha256
from fs_fedmllm.data.overlap import label_counts, label_sentences, overlap_sentences, overlaps
from fs_fedmllm.data.sample import Dataset, Sample
from fs_fedmllm.data.template import Template, load_template
from fs_fedmllm.errors import ConfigError, ScenarioError
from fs_fedmllm.scenarios.build import apply_scenario, clients_of, params_of
from fs_fedmllm.scenarios.judged import check_classes, evaluated_rows, template_that_fits
from fs_fedmllm.scenarios.manifest import Manifest, apply_manifest, read_manifest
from fs_fedmllm.scenarios.reading import client_column, named_groups, read_dataset, template_of
from fs_fedmllm.scenarios.switches import ScenarioParams
from fs_fedmllm.scenarios.test_sets import NamedTestSet, read_test_sets


@dataclass(frozen=True)
class FederatedData:
    """Data after the scenario.

    Attributes:
        dataset: what the adapter read.
        template: its prompts.
        clients: client id (from 1) -> training rows, with what the client may see.
        manifest: how the rows were dealt; names no rows at a site that knows but its own.
        split: sha256 of the manifest that the site's folder was written for, where the site does not have it all.
        names: what the data calls its clients, by id; empty where they are numbers alone.
        report: labels of each split, rows of each client and what splits share, as in results.json; empty where nobody
            sees all rows.
        test_sets: further test sets by name; empty where nobody evaluates.
    """

    dataset: Dataset
    template: Template
    clients: Mapping[int, Sequence[Sample]]
    manifest: Manifest
    split: str = ""
    names: Mapping[int, str] = field(default_factory=dict)
    report: Mapping[str, Any] = field(default_factory=dict)
    test_sets: Mapping[str, NamedTestSet] = field(default_factory=dict)

    @property
    def manifest_sha256(self) -> str:
        """sha256 of the manifest of the whole split."""
        return self.split or self.manifest.sha256

    @cached_property
    def content_sha256(self) -> str:
        """sha256 of the rows and the content of their images; of a site, of those that it has."""
        rows = self.dataset
        further = [self.test_sets[name].rows for name in sorted(self.test_sets)]
        return rows_sha256(row for part in (rows.train, rows.val, rows.test, *further) for row in part)


def scenario_params(config: Config, dataset: Dataset) -> ScenarioParams:
    """The scenario's parameters: the profile's, with what the configuration sets on top.

    Raises:
        ScenarioError: the scenario has no such setting.
    """
    settings = {
        name: tuple(value) if isinstance(value, list) else value for name, value in config.scenario_settings.items()
    }
    return params_of(config.scenario, settings, profile=config.fedmllm.profile, dataset=dataset.name)


def fitting_template(config: Config, dataset: Dataset) -> Template:
    """The prompts of the run's own data set; every row's label is one of their options.

    Raises:
        ConfigError: there is no such template, or it has no options for ``fedmllm.label_prior``.
        DataError: a label is outside the template's options.
    """
    template = template_that_fits(template_of(config, dataset), dataset)
    if template.task == "choice":
        return template
    if config.fedmllm.label_prior:
        raise ConfigError(
            f"fedmllm.label_prior is {config.fedmllm.label_prior:g}, and the answers of {dataset.name} (template "
            f"{template.name!r}) are open: they have no options whose shares at a client could be its prior. Set "
            "it to 0."
        )
    kind = config.fedmllm.regularizer.type
    if REGULARIZERS[kind].shifts_options:
        raise ConfigError(
            f"fedmllm.regularizer.type is {kind}, and the answers of {dataset.name} (template {template.name!r}) are "
            "open: they have no options whose logits to calibrate. Use another."
        )
    if config.fedmllm.predict.combine != "joint":
        raise ConfigError(
            f"fedmllm.predict.combine is {config.fedmllm.predict.combine}, and the answers of {dataset.name} "
            f"(template {template.name!r}) are open: they have no options whose probabilities to multiply. Set it to "
            "joint."
        )
    if config.fedmllm.stand_ins.use != "off":
        raise ConfigError(
            f"fedmllm.stand_ins.use is {config.fedmllm.stand_ins.use}, and the answers of {dataset.name} "
            f"(template {template.name!r}) are open: whether a modality alone decides them, as its guard "
            "asks, has no meaning there, and nobody has tried it. Set it to off."
        )
    return template


def _read(config: Config) -> Dataset:
    dataset = read_dataset(config)
    for warning in dataset.warnings:
        logging.getLogger("fs_fedmllm").warning("%s", warning)
    return dataset


def _labelled(
    config: Config, clients: Mapping[int, Sequence[Sample]], template: Template
) -> dict[int, Sequence[Sample]]:
    if config.switches["text_only_label"] != "text":
        return dict(clients)
    return {client: [_own_label(row, template) for row in rows] for client, rows in clients.items()}


def counted(config: Config) -> tuple[Config, Dataset | None]:
    """The configuration with its number of clients, where that is for the rows to say (``fedmllm_given``).

    Returns:
        The configuration, and the data set if it was read for that: :func:`prepare_data` then need not read it again.

    Raises:
        ConfigError: the configuration is impossible with so many clients.
        DataError: the data set cannot be read.
        ScenarioError: the rows do not say it.
    """
    if not config.counts_clients:
        return config, None
    dataset = _read(config)
    return counted_in(config, dataset), dataset


def counted_in(config: Config, dataset: Dataset) -> Config:
    """As :func:`counted`, of a data set that is read."""
    if not config.counts_clients:
        return config
    if not dataset.train:
        raise ScenarioError(
            f"the data set {dataset.called!r} has no training rows, of whose {client_column(config)!r} data.splitter "
            f"{config.data.splitter} makes clients"
        )
    return with_clients(config, clients_of(config.scenario, dataset.train, scenario_params(config, dataset)))


def with_clients(config: Config, clients: int) -> Config:
    """The configuration with this number of clients, checked.

    Raises:
        ConfigError: it is impossible with so many.
    """
    made = dataclasses.replace(config, federate=dataclasses.replace(config.federate, client_num=clients))
    check(made)
    return made


def prepare_data(config: Config, dataset: Dataset | None = None) -> FederatedData:
    """Read the data set, apply the scenario to its training rows, and say what splits share.

    Args:
        config: of the run.
        dataset: where it is read already.

    Raises:
        ConfigError: the metric that picks the best round is on a split without rows, or is not one of the task's.
        DataError: a label is outside the template's options, or a metric cannot be computed on the rows.
        ScenarioError: the scenario cannot be applied.
    """
    data = deal_data(config, dataset if dataset is not None else _read(config))
    shared = overlaps(data.dataset, named_groups(config))
    labels = label_counts(data.dataset, data.template)
    for sentence in (*overlap_sentences(shared), *label_sentences(labels), *alike_sentences(*labels.values())):
        logging.getLogger("fs_fedmllm").warning("%s", sentence)
    rows = {str(client): len(own) for client, own in sorted(data.clients.items())}
    report = {"labels": labels, "client_rows": rows, "shared": shared}
    further = read_test_sets(config, data.dataset, data.template)
    return dataclasses.replace(data, report=report, test_sets=further)


def deal_data(config: Config, dataset: Dataset) -> FederatedData:
    """Apply the scenario to the training rows of a data set; what is raised is as in :func:`prepare_data`."""
    template = fitting_template(config, dataset)
    clients, manifest = deal(config, dataset, template)
    if config.method.pooled:
        clients = {1: [row for client in sorted(clients) for row in clients[client]]}
    check_best(config, dataset, template)
    check_stand_ins(config, dataset)
    return FederatedData(dataset, template, clients, manifest, names=manifest.names)


def deal(config: Config, dataset: Dataset, template: Template) -> tuple[dict[int, Sequence[Sample]], Manifest]:
    """Apply the scenario to a data set's training rows: the same wherever it is done.

    Returns:
        Client id -> rows, with what the client may see; and how they were dealt.

    Raises:
        ScenarioError: the scenario cannot be applied.
    """
    split = apply_scenario(
        config.scenario,
        dataset.train,
        config.federate.client_num,
        scenario_params(config, dataset),
        config.seed,
        dataset=dataset.name,
        fingerprint=dataset.fingerprint,
    )
    return _labelled(config, split.clients, template), split.manifest


def recorded_data(config: Config, path: str) -> FederatedData:
    """Read the data set and deal its training rows as a manifest records it, without drawing.

    Args:
        config: whose data set.
        path: of the manifest.

    Raises:
        ScenarioError: the manifest was made from other files or rows.
    """
    recorded = read_manifest(path)
    dataset = _read(config)
    template = load_template(template_of(config, dataset))
    split = apply_manifest(recorded, dataset.train, fingerprint=dataset.fingerprint)
    clients = _labelled(config, split.clients, template)
    return FederatedData(dataset, template, clients, split.manifest, names=split.manifest.names)


#: What picks the best round where there are no validation rows to pick it by: nothing, as in the paper.
LAST_ROUND = "last round"


def best_metric(config: Config, dataset: Dataset) -> str:
    """The metric that picks the best round: the configuration's, or ``LAST_ROUND`` where it is one of validation rows
    and the data set has none (the paper's own layout of Hateful Memes)."""
    name = config.eval.best_res_update_round_wise_key
    return LAST_ROUND if name.startswith("val_") and not dataset.val else name


def check_best(config: Config, dataset: Dataset, template: Template) -> None:
    """The metrics of a run must be ones that the rows allow: the task's own, and the one that picks the best round.

    Raises:
        ConfigError: no evaluation has the metric that picks the best round.
        DataError: the AUC is asked of rows of one class.
    """
    for split in SPLITS:
        check_classes(config, getattr(dataset, split), template, f"{split} rows of {dataset.name}")
    name = config.eval.best_res_update_round_wise_key
    part, _, metric = name.partition("_")
    rows: Sequence[Sample] = evaluated_rows(config, getattr(dataset, part))
    if best_metric(config, dataset) == LAST_ROUND:
        logging.getLogger("fs_fedmllm").warning(
            "%s has no validation rows, so eval.best_res_update_round_wise_key %s picks no round: the last round's "
            "figures are the run's, as in the paper.",
            dataset.called,
            name,
        )
        rows = evaluated_rows(config, dataset.test)
    sliced = metric.startswith(("image_", "text_"))
    if sliced and (part == "val" or not any(row.presence == "both" for row in rows)):
        why = "only test rows are" if part == "val" else "none of them has both"
        raise ConfigError(
            f"eval.best_res_update_round_wise_key is {name!r}, which shows {part} rows with one modality, and {why}. "
            f"Use {part}_{metric.partition('_')[2]}."
        )
    if not rows:
        raise ConfigError(
            f"eval.best_res_update_round_wise_key is {name!r}, but {dataset.name} has no {part} rows; use a metric of "
            "its val rows."
        )
    if template.task == "choice":
        sampled = config.switches["decision"] == "sampled_text"
        known = {"acc", "macro_f1", "weighted_f1"} | ({"unparsable"} if sampled else {"loss"})
        known |= {"auc", "auc_hard"} if template.metric == "auc" else set()
    else:
        known = {"acc", "loss"} | {f"{row.kind}_acc" for row in rows if row.kind}
    known |= set(named_metrics(config.fedmllm.eval.metrics))
    if metric.removeprefix("image_").removeprefix("text_") not in known:
        raise ConfigError(
            f"eval.best_res_update_round_wise_key is {name!r}, but an evaluation of {dataset.name} has "
            f"{', '.join(sorted(known))}."
        )


def _own_label(row: Sample, template: Template) -> Sample:
    """A text-only row takes its text's own label where the data set has one (CrisisMMD)."""
    name = row.keys.get("label_text")
    if row.presence != "text" or name is None or name not in template.options:
        return row
    label = template.options.index(name)
    return dataclasses.replace(row, label=label, answer=template.answer(label))


def missing_rate(rows: Sequence[Sample]) -> float:
    """beta_k: the largest share, over modalities, of a client's rows that lack it; a bare question is text."""
    without_image = sum(row.image is None for row in rows)
    without_text = sum(row.text is None and not (row.image is None and row.question is not None) for row in rows)
    return max(without_image, without_text) / len(rows)


def complete_validation_rows(config: Config, dataset: Dataset) -> list[Sample]:
    """The validation rows that are evaluated and show both modalities."""
    return [row for row in evaluated_rows(config, dataset.val) if row.presence == "both"]


def check_stand_ins(config: Config, dataset: Dataset) -> None:
    """The guard of stand-ins has rows to ask.

    Raises:
        ConfigError: it has none.
    """
    chosen = config.fedmllm.stand_ins
    if chosen.use != "off" and chosen.guard == "validation" and not complete_validation_rows(config, dataset):
        raise ConfigError(
            f"fedmllm.stand_ins.guard is validation, and {dataset.called} has no validation row at the server that "
            "shows both modalities, so nothing can say whether stand-ins do harm. Give it such rows, or set "
            "fedmllm.stand_ins.guard to none (nothing then watches them) or use to off."
        )


def option_counts(rows: Sequence[Sample], template: Template) -> tuple[int, ...]:
    """A client's rows of each option, in the options' order; empty where answers are open."""
    if template.task != "choice":
        return ()
    found = Counter(row.label for row in rows)
    return tuple(found[option] for option in range(len(template.options)))
