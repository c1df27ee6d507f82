"""What the verbs of ``fs-fedmllm data`` are about: a configuration, or rows alone, by folder or by a data set's name.

=========================== =========================================================================================
``configs/cross_i3t7.yaml`` a configuration, by path or by the name of one that ships
``my_data``                 a folder of your own data (``data.type: own``)
``vqa_rad FOLDER``          a data set by name, with its folder; the embedded ones need none
=========================== =========================================================================================

Overrides follow. Beside rows alone, a word that is an option of their reader (``template``, ``columns``) is that; any
other is a configuration's key.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fs_fedmllm.errors import ConfigError

if TYPE_CHECKING:
    from fs_fedmllm.config import Config

#: How the rows of a folder are dealt where nobody says otherwise; validation and test rows may be absent.
_ALONE: dict[str, dict[str, Any]] = {"data": {"splitter": "fedmllm_aligned"}, "federate": {"client_num": 4}}


@dataclass(frozen=True)
class Rows:
    """Rows alone, no configuration.

    Attributes:
        name: ``data.type``.
        root: ``data.root``.
        options: ``fedmllm.data``.
        keys: nested keys of a configuration that were given beside them.
    """

    name: str
    root: str
    options: dict[str, Any]
    keys: dict[str, Any]

    def config(self) -> Config:
        """A configuration of these rows, dealt to four clients where nothing else is said.

        Raises:
            ConfigError: a key or value is wrong.
        """
        from fs_fedmllm.config import from_mapping

        raw = {**_ALONE, **self.keys}
        for section in _ALONE:
            raw[section] = {**_ALONE[section], **(self.keys.get(section) or {})}
        raw["data"] |= {"type": self.name, "root": self.root}
        if raw["data"]["splitter"] == "fedmllm_given" and "client_num" not in (self.keys.get("federate") or {}):
            del raw["federate"]["client_num"]  # the rows say how many there are
        raw["fedmllm"] = {**(raw.get("fedmllm") or {}), "data": self.options}
        return from_mapping(raw, self.root or self.name)


def read_target(name: str, words: Sequence[str]) -> Config | Rows:
    """Find out what a command line is about.

    Args:
        name: its first word.
        words: those that follow.

    Raises:
        ConfigError: there is nothing of that name, or an override is wrong.
    """
    from fs_fedmllm.config import load
    from fs_fedmllm.data.packed import kind_of
    from fs_fedmllm.data.registry import DATASETS, EMBEDDED, NAMES
    from fs_fedmllm.data.table_form import TABLES
    from fs_fedmllm.shipped import find_config

    if name in EMBEDDED:
        return _rows(name, "", words)
    if name in NAMES or name in DATASETS:
        if not words or ("=" in words[0] and not Path(words[0]).is_dir()):
            raise ConfigError(f"The data set {name} needs the folder that it lies in: {name} FOLDER.")
        return _rows(name, words[0], words[1:])
    if Path(name).is_dir():
        return _rows("own", name, words)
    if Path(name).is_file() and kind_of(Path(name)) in (*TABLES, ".jsonl", ".parquet"):
        raise ConfigError(
            f"{name} is a file of rows. Name the configuration that fs-fedmllm init writes for it, or its folder with "
            "what its rows are (template=NAME file=NAME); predict --file takes such a file as it is."
        )
    try:
        path = find_config(name)
    except ConfigError as error:
        raise ConfigError(f"{error} There is no folder {name!r} of your own data here, and no data set.") from error
    return load(path, words)


def target_config(name: str, words: Sequence[str]) -> Config:
    """As :func:`read_target`, and in any case a whole configuration."""
    found = read_target(name, words)
    return found.config() if isinstance(found, Rows) else found


def _rows(name: str, root: str, words: Sequence[str]) -> Rows:
    from fs_fedmllm.config import apply_overrides, known_keys, override_pairs
    from fs_fedmllm.data.registry import known_options

    options, known = known_options(name), {key.partition(".")[0] for key in known_keys()}
    of_reader: list[str] = []
    of_run: list[str] = []
    for key, value in override_pairs(words):
        first = key.partition(".")[0]
        (of_run if first in known and first not in options else of_reader).extend([key, value])
    keys = apply_overrides({}, of_run)
    ours = keys.get("fedmllm")
    own = ours.pop("data", None) if isinstance(ours, dict) else None
    if ours == {}:
        del keys["fedmllm"]
    return Rows(name, root, apply_overrides(own if isinstance(own, dict) else {}, of_reader), keys)
