"""The rows of a run: read, assigned to clients by the scenario, and checked (:mod:`fs_fedmllm.scenarios.fitting`)."""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from fs_fedmllm.config import Config
from fs_fedmllm.config.checks import check
from fs_fedmllm.data.alike_labels import alike_sentences
from fs_fedmllm.data.content import rows_sha256
from fs_fedmllm.data.overlap import label_counts, label_sentences, overlap_sentences, overlaps
from fs_fedmllm.data.sample import Dataset, Sample
from fs_fedmllm.data.template import Template
from fs_fedmllm.data.template_file import load_template
from fs_fedmllm.errors import ScenarioError
from fs_fedmllm.scenarios.build import apply_scenario, clients_of, params_of
from fs_fedmllm.scenarios.fitting import check_best, check_stand_ins, fitting_template
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

    @property
    def dealt(self) -> list[Sample]:
        """The training rows of all clients, client by client."""
        return [row for client in sorted(self.clients) for row in self.clients[client]]

    def shown(self) -> Iterator[Sample]:
        """Every row that a model is shown here: the clients', and those of all evaluations."""
        for rows in (self.dealt, self.dataset.val, self.dataset.test, *(s.rows for s in self.test_sets.values())):
            yield from rows

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

    Raises:
        ScenarioError: the manifest was made from other files or rows.
    """
    recorded = read_manifest(path)
    dataset = _read(config)
    template = load_template(template_of(config, dataset))
    split = apply_manifest(recorded, dataset.train, fingerprint=dataset.fingerprint)
    clients = _labelled(config, split.clients, template)
    return FederatedData(dataset, template, clients, split.manifest, names=split.manifest.names)


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


def option_counts(rows: Sequence[Sample], template: Template) -> tuple[int, ...]:
    """A client's rows of each option, in the options' order; empty where answers are open."""
    if template.task != "choice":
        return ()
    found = Counter(row.label for row in rows)
    return tuple(found[option] for option in range(len(template.options)))
