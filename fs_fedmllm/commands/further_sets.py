"""What ``fs-fedmllm data check`` says of a configuration's further test sets."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

from fs_fedmllm.errors import FedMLLMError, printable

if TYPE_CHECKING:
    from fs_fedmllm.config import Config
    from fs_fedmllm.data.findings import Finding
    from fs_fedmllm.data.sample import Dataset
    from fs_fedmllm.scenarios.test_sets import NamedTestSet


def check_test_sets(
    config: Config, own: Dataset, *, decode: bool, widest: float, family: str
) -> tuple[dict[str, NamedTestSet], list[Finding]]:
    """Look at every row and image of the further test sets, as ``data check`` does at the run's own.

    Args:
        config: whose sets.
        own: the run's data set.
        decode: as for :func:`fs_fedmllm.data.check.inspect`.
        widest: as there.
        family: of the model.

    Returns:
        The sets that could be read, by name, and what was found in all.
    """
    from fs_fedmllm.config.test_sets import set_options
    from fs_fedmllm.data.check import inspect
    from fs_fedmllm.data.findings import Finding, as_finding
    from fs_fedmllm.data.template_file import load_template
    from fs_fedmllm.scenarios.reading import template_of
    from fs_fedmllm.scenarios.test_sets import fitted, folder_of, sentences

    found: dict[str, NamedTestSet] = {}
    findings: list[Finding] = []
    for name, options in set_options(config).items():
        place = f"fedmllm.test_sets.{name}"
        try:
            root = folder_of(config, name, options)
            dataset, its = inspect(
                options.type, root, options.options, decode=decode, widest=widest, family=family, test_only=True
            )
            findings += its
            if dataset is not None and not any(finding.severity == "error" for finding in its):
                found[name] = fitted(config, name, dataset, options, own)
                own_template = load_template(template_of(config, own))
                said = sentences(found[name], own, own_template)
                findings += [Finding("warning", place, "", sentence, "") for sentence in said]
        except FedMLLMError as error:
            finding = as_finding(error)
            findings.append(finding if finding.file else dataclasses.replace(finding, file=place))
    return found, findings


def labels_of(sets: Mapping[str, NamedTestSet]) -> list[str]:
    """Rows of each set by label or kind, a line each."""
    lines = []
    for name, test_set in sets.items():
        counts = ", ".join(f"{count:,} {printable(label)}" for label, count in test_set.report["labels"].items())
        lines.append(f"test set {name}, {test_set.dataset.called}, template {test_set.template.name}: {counts}")
    return lines
