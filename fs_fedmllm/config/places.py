"""Where a configuration's relative paths lead: from the folder that the command runs in, or from that of the file.

What the command line gives is relative to where the command runs, as everywhere. A path in the file that leads nowhere
from there is taken from the file's own folder, so that a study's folder works from anywhere. Where it leads to two
places, neither is guessed.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from fs_fedmllm.config.host_reading import put, value_at
from fs_fedmllm.config.known_keys import text_keys
from fs_fedmllm.config.schema import Config
from fs_fedmllm.errors import ConfigError
from fs_fedmllm.keys import field_of
from fs_fedmllm.text_columns import lone_surrogate

#: Keys that hold a path, and whether it is one of a folder; templates are paths where they have one of the endings.
_PLACES = (("data.root", True), ("fedmllm.data.template", False), ("fedmllm.template", False))
#: Every key that holds a path of this machine, or may.
_PATHS = (
    *("outdir", "data.root", "fedmllm.template", "model.fedmllm.path", "federate.save_to", "federate.restore_from"),
    *("fedmllm.vision_cache.folder", "fedmllm.network.certificates"),
)
_TEMPLATE = (".yaml", ".yml")
#: A run's record of its configuration: its paths are those of where the run was started, and nothing lies beside it.
RESOLVED = "resolved_config.yaml"


def placed(raw: Mapping[str, Any], path: str | Path, given: Collection[str] = ()) -> dict[str, Any]:
    """A file's mapping, its relative paths made absolute where they lead to something from the file's folder alone.

    A run's ``resolved_config.yaml`` stays as it is.

    Args:
        raw: as the file has it.
        path: the file.
        given: keys that the command line gives, whose values in the file do not count.

    Raises:
        ConfigError: a path leads to one thing from the file's folder and to another from here.
    """
    made = dict(raw)
    if Path(path).name == RESOLVED:
        return made
    beside = Path(os.path.abspath(path)).parent
    for key, folder in _PLACES:
        value = value_at(made, key)
        if any(key == name or key.startswith(f"{name}.") for name in given) or not isinstance(value, str) or not value:
            continue
        if os.path.isabs(value) or not (folder or value.endswith(_TEMPLATE)):
            continue
        here, there = Path(os.path.abspath(value)), beside / value
        exists = os.path.isdir if folder else os.path.isfile
        if not exists(there) or (not folder and _in_data(made, value)):
            continue
        if not exists(here):
            put(made, key, os.path.normpath(there))
        elif not os.path.samefile(here, there):
            raise ConfigError(
                f"{path}: {key} is {value!r}, which is {os.path.normpath(there)} beside this file and {here} from "
                f"where the command runs. Write the path in full, or give it on the command line ({key}={here})."
            )
    return made


def path_faults(config: Config) -> Iterator[str]:
    """A message for every path that begins with ``~``, which would be a folder of this name here, and for texts that
    no file can hold.

    Args:
        config: as built.
    """
    own = config.fedmllm.data
    paths: dict[str, str] = {key: _setting(config, key) for key in _PATHS}
    paths |= {f"fedmllm.data.{name}": value for name, value in own.items() if isinstance(value, str)}
    for key, value in paths.items():
        if value.startswith("~") and (value == "~" or "/" in value):
            yield f"{key} is {value!r}, and a shell alone puts your folder in place of ~. Write the path in full."

    texts = {key: _setting(config, key) for key in text_keys()}
    for key, value in (texts | paths).items():
        if key != "data.root" and lone_surrogate(value):  # that is only opened
            yield f"{key} holds bytes that are not UTF-8 text ({value!r}). Give it, and call folders, in UTF-8."


def _setting(config: Config, key: str) -> str:
    return str(functools.reduce(getattr, map(field_of, key.split(".")), config))


def _in_data(raw: Mapping[str, Any], template: str) -> bool:
    """Whether a template lies in the folder of the data, where it is looked for first."""
    root = value_at(raw, "data.root")
    return isinstance(root, str) and os.path.isfile(os.path.join(root, template))
