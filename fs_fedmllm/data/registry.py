"""From the value of ``data.type`` to a data set. Adapters are imported only when they are asked for."""

from __future__ import annotations

import importlib
import inspect
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fs_fedmllm.config.nearest import nearest
from fs_fedmllm.data.findings import Findings
from fs_fedmllm.data.sample import Dataset
from fs_fedmllm.errors import ConfigError
from fs_fedmllm.registry import Registry

#: Data sets that are read from a folder of the user's: name -> module with ``load(root, **options)``.
ADAPTERS: Mapping[str, str] = {
    "hateful_memes": "fs_fedmllm.data.hateful_memes",
    "crisismmd": "fs_fedmllm.data.crisismmd",
    "vqa_rad": "fs_fedmllm.data.vqa_rad",
    "slake": "fs_fedmllm.data.slake",
    "flashcards": "fs_fedmllm.data.flashcards",
    "medical": "fs_fedmllm.data.medical",
    "real_triage": "fs_fedmllm.data.real_triage",
    "own": "fs_fedmllm.data.own",
    "records": "fs_fedmllm.data.records",
}
#: Constructed data sets that need no folder: they are made in the cache.
EMBEDDED = ("digits_match", "digits_triage", "digits_panel", "digits_memes")
NAMES = (*ADAPTERS, *EMBEDDED)
#: Data sets of other packages: name -> ``load(root, **options)``.
DATASETS: Registry[Callable[..., Dataset]] = Registry("fs_fedmllm.datasets", {}, NAMES)


def cache_dir() -> Path:
    """Where constructed data is kept: ``$FS_FEDMLLM_CACHE`` or ``~/.cache/fs-fedmllm``."""
    return Path(os.environ.get("FS_FEDMLLM_CACHE") or Path.home() / ".cache" / "fs-fedmllm")


def _loader(name: str) -> Callable[..., Dataset]:
    DATASETS.refuse_taken(name)
    if name in EMBEDDED:
        return importlib.import_module("fs_fedmllm.data.digits").load_digits_dataset
    if name in ADAPTERS:
        return importlib.import_module(ADAPTERS[name]).load
    if name in DATASETS:
        return DATASETS[name]
    raise ConfigError(f"data.type: no data set {name!r}{nearest(name, NAMES)} Known: {', '.join(NAMES)}.")


def known_options(name: str) -> dict[str, Any]:
    """The options of a data set and their defaults (``inspect.Parameter.empty`` where one must be given)."""
    reserved = {"name", "root", "cache", "findings", "by_client"}
    parameters = inspect.signature(_loader(name)).parameters.values()
    return {p.name: p.default for p in parameters if p.name not in reserved}


def check_options(name: str, options: Mapping[str, Any]) -> None:
    """Refuse options that the data set does not have, lack, or have with a value of another type.

    Raises:
        ConfigError: naming the data set, the option, and the ones it knows.
    """
    known = known_options(name)
    for key, value in options.items():
        if key not in known:
            listed = ", ".join(known) or "none"
            raise ConfigError(f"{name} has no option {key!r}{nearest(str(key), known)} Known options: {listed}.")
        for kind in (bool, int, str):
            if type(known[key]) is kind and type(value) is not kind:
                raise ConfigError(f"{name}: option {key} must be of type {kind.__name__}, not {value!r}.")
    for key, default in known.items():
        if default is inspect.Parameter.empty and key not in options:
            hint = (
                f" {key}=NAME.yaml says what rows are asked, and the options; fs-fedmllm init writes one."
                if (name, key) == ("own", "template")
                else ""
            )
            raise ConfigError(f"{name} needs the option {key!r}.{hint} Known options: {', '.join(known)}.")


def load_dataset(
    name: str,
    root: Path | str,
    options: Mapping[str, Any] | None = None,
    findings: Findings | None = None,
    *,
    by_client: str = "",
) -> Dataset:
    """Read a data set by name.

    Args:
        name: the value of ``data.type``, one of ``NAMES``.
        root: the folder that the data lies in; ignored by the constructed sets.
        options: the adapter's keyword options.
        findings: where to put errors and warnings; without it the first error is raised.
        by_client: column of the user's own rows that says which client a row belongs to; other data sets have their
            keys anyway.

    Raises:
        ConfigError: unknown name or option.
        DataError: the data is wrong; the message names file, row and remedy.
    """
    load = _loader(name)
    options = dict(options or {})
    check_options(name, options)
    if name in EMBEDDED:
        return load(name, cache=cache_dir(), **options)
    root = Path(root)
    if not root.is_dir():
        raise ConfigError(
            f"data.root: {os.path.abspath(root)} is not a folder; give the folder that the data of {name} lies in."
        ).telling("data.root is not a folder there")
    taken = inspect.signature(load).parameters
    aside = {"findings": findings} | ({"by_client": by_client} if by_client else {})
    return load(root, **{key: value for key, value in aside.items() if key in taken}, **options)
