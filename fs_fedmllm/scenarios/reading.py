"""A run's data set, its groups and template, read as its configuration says."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fs_fedmllm.config import Config
from fs_fedmllm.data.client_folders import HEAD, SERVER_HEAD
from fs_fedmllm.data.findings import Findings
from fs_fedmllm.data.registry import load_dataset
from fs_fedmllm.data.sample import Dataset

#: The data set whose prompts are the user's own, so that ``fedmllm.template`` alone says which.
_OWN = "own"


def client_column(config: Config) -> str:
    """The column that says which client a row belongs to; empty where a scenario draws that."""
    return str(config.scenario_args.get("client") or "")


def dataset_options(config: Config) -> dict[str, Any]:
    """``fedmllm.data``; rows of the user's own take ``fedmllm.template`` where it names no template itself."""
    options = dict(config.fedmllm.data)
    if config.data.type == _OWN and config.fedmllm.template and not options.get("template"):
        options["template"] = config.fedmllm.template
    return options


def read_dataset(config: Config, findings: Findings | None = None, *, by_client: bool = True) -> Dataset:
    """The data set.

    Args:
        config: of the run.
        findings: where to put errors and warnings; without it the first error is raised.
        by_client: whether rows say which client they belong to, where the scenario asks that; not at a site whose
            rows are all its own.

    Raises:
        ConfigError: unknown data set or option.
        DataError: the data is wrong; the message names file, row and remedy.
    """
    column = client_column(config) if by_client else ""
    root = Path(config.data.root)
    return load_dataset(config.data.type, root, dataset_options(config), findings, by_client=column)


def named_groups(config: Config, *further: Mapping[str, Any]) -> list[str]:
    """Keys of rows that are called groups, of the own and of further data, and what scenario or split keep together.

    Args:
        config: of the run.
        further: options of further data sets, as ``fedmllm.data`` has them.
    """
    given = [options.get("groups", ()) for options in (config.fedmllm.data, *further)]
    named = [key for keys in given if isinstance(keys, list | tuple) for key in keys]
    # A hospital whose rows are tested on too is no leak: who a client is, is no group to keep apart.
    return list(dict.fromkeys([*named, *config.kept_together, *config.split_together]))


def template_of(config: Config, dataset: Dataset) -> str:
    """Name or path of the run's template: ``fedmllm.template``, or the data set's own."""
    named, own = config.fedmllm.template, dataset.template
    if not named:
        return own
    if Path(named).suffix not in (".yaml", ".yml"):
        return named
    beside = Path(config.data.root) / named
    if config.data.type == _OWN and beside.is_file():
        return str(beside)
    dealt = any((Path(config.data.root) / head).is_file() for head in (HEAD, SERVER_HEAD))
    if dealt and not Path(named).is_file() and Path(own).name == Path(named).name and Path(own).is_file():
        return own  # a site's folder has the template that the split was made with
    return named
