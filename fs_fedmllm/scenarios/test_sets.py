"""Further test sets: rows that the server evaluates beside the run's own, each with its own prompts.

They are held to what the run's own data set is held to; nothing of them is trained on, and no scenario takes a
modality from them. Only the test rows of such a data set are taken.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fs_fedmllm.config import Config
from fs_fedmllm.config.test_sets import SetOptions, set_options
from fs_fedmllm.data.overlap import label_counts, label_sentences, overlap_sentences, overlaps
from fs_fedmllm.data.registry import EMBEDDED, load_dataset
from fs_fedmllm.data.sample import Dataset, Sample
from fs_fedmllm.data.template import Template
from fs_fedmllm.errors import ConfigError, DataError, FedMLLMError
from fs_fedmllm.scenarios.judged import check_classes, check_form, template_that_fits
from fs_fedmllm.scenarios.reading import named_groups


@dataclass(frozen=True)
class NamedTestSet:
    """A further test set as it was read.

    Attributes:
        name: as in ``fedmllm.test_sets``.
        dataset: its test rows, and nothing else.
        template: its prompts.
        report: rows by label or kind, and what the rows share with the run's own training and validation rows, as in
            results.json; empty where there are none to compare with.
    """

    name: str
    dataset: Dataset
    template: Template
    report: Mapping[str, Any] = field(default_factory=dict)

    @property
    def rows(self) -> Sequence[Sample]:
        """Its test rows."""
        return self.dataset.test


def read_test_sets(config: Config, own: Dataset, own_template: Template) -> dict[str, NamedTestSet]:
    """Read every set of ``fedmllm.test_sets``.

    Args:
        config: of the run.
        own: the run's data set, for what a test set shares with it.
        own_template: its prompts.

    Raises:
        ConfigError: there is no such data set, folder, option or template.
        DataError: a row is wrong, there are no test rows, or a metric cannot be computed on them.
    """
    found = {}
    for name, options in set_options(config).items():
        key = f"fedmllm.test_sets.{name}"
        root = folder_of(config, name, options)
        with naming_set(name):
            dataset = load_dataset(options.type, root, options.options)
            found[name] = fitted(config, name, dataset, options, own)
        for sentence in (*dataset.warnings, *sentences(found[name], own, own_template)):
            logging.getLogger("fs_fedmllm").warning("%s: %s", key, sentence)
    return found


@contextlib.contextmanager
def naming_set(name: str) -> Iterator[None]:
    """What is wrong with a set is said with its key in front."""
    try:
        yield
    except FedMLLMError as error:
        kind = ConfigError if isinstance(error, ConfigError) else DataError
        raise kind(f"fedmllm.test_sets.{name}: {error}") from error


def folder_of(config: Config, name: str, options: SetOptions) -> Path:
    """Where a set's rows lie.

    Raises:
        ConfigError: there is no such folder.
    """
    root = options.folder(config.data.root)
    if options.type not in EMBEDDED and not root.is_dir():
        raise ConfigError(
            f"fedmllm.test_sets.{name}.root: {root} is not a folder; give the folder that the data of {options.type} "
            "lies in. A relative one begins at data.root."
        )
    return root


def sentences(found: NamedTestSet, own: Dataset, own_template: Template) -> list[str]:
    """What a set shares with the run's own rows, and which of its labels no training row has."""
    said = overlap_sentences(found.report.get("shared", {}))
    if (found.template.task, found.template.options) == (own_template.task, own_template.options):
        trained = label_counts(own, own_template)["train"]
        said += label_sentences({"train": trained, "val": {}, "test": found.report["labels"]})
    return said


def fitted(config: Config, name: str, dataset: Dataset, options: SetOptions, own: Dataset) -> NamedTestSet:
    """A data set as a further test set: its test rows, checked against its prompts and the run's own rows.

    Raises:
        ConfigError: there is no such template.
        DataError: there are no test rows, or the prompts or the metric do not fit them.
    """
    if not dataset.test:
        raise DataError(f"{dataset.name} has no test rows, and a test set is nothing else. Name another data set.")
    dataset = dataclasses.replace(dataset, train=(), val=())
    template = template_that_fits(options.template, dataset, f"fedmllm.test_sets.{name}.template")
    check_form(config, template)
    check_classes(config, dataset.test, template, f"test rows of {dataset.name}")
    for row in dataset.test if template.task == "vqa" else ():
        template.prompt(row)  # a row without a question is refused with its place
    report: dict[str, Any] = {"labels": label_counts(dataset, template)["test"]}
    if own.train or own.val:
        beside = dataclasses.replace(dataset, train=own.train, val=own.val)
        shared = overlaps(beside, named_groups(config, options.options or {}))
        report["shared"] = {pair: what for pair, what in shared.items() if pair.endswith("_test")}
    return NamedTestSet(name, dataset, template, report)
