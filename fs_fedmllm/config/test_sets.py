"""Further test sets of a run, ``fedmllm.test_sets``: a name for each, and which rows it is.

test_sets:
  slake: {type: slake, root: slake, options: {language: en}}
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fs_fedmllm.config.nearest import nearest

if TYPE_CHECKING:
    from fs_fedmllm.config.schema import Config

#: What a set's name is made of: it names files, and figures are asked for as ``test_sets.<name>.<figure>``.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}")
#: Names of the run's own splits.
TAKEN = ("train", "val", "test")


@dataclass(frozen=True)
class SetOptions:
    """What the configuration says of a further test set.

    Attributes:
        type: name of the data set, as in ``data.type``.
        root: its folder; a relative one begins at ``data.root``, and empty is ``data.root``.
        template: name or path of its prompts; empty takes the data set's own.
        options: of the data set's adapter, as in ``fedmllm.data``.
    """

    type: str
    root: str = ""
    template: str = ""
    options: Mapping[str, Any] | None = None

    def folder(self, data_root: str) -> Path:
        """Where its rows lie."""
        return Path(data_root) / self.root


_KEYS = tuple(f.name for f in fields(SetOptions))


def set_options(config: Config) -> dict[str, SetOptions]:
    """The further test sets of a checked configuration, by name, in the order of the file."""
    found = {}
    for name, given in config.fedmllm.test_sets.items():
        texts = {key: str(value) for key, value in given.items() if key != "options" and value is not None}
        found[str(name)] = SetOptions(**texts, options=dict(given.get("options") or {}))
    return found


def test_set_faults(config: Config) -> Iterator[str]:
    """A message for everything that is wrong with ``fedmllm.test_sets``."""
    seen: dict[str, str] = {}
    for name, given in config.fedmllm.test_sets.items():
        where = f"fedmllm.test_sets.{name}"
        if not NAME.fullmatch(str(name)):
            yield (
                f"fedmllm.test_sets has the name {str(name)[:80]!r}; a test set's name is made of letters, digits, _ "
                "and -, at most 40, with a letter or a digit first, for it names files. Rename it."
            )
            continue
        if str(name).lower() in TAKEN:
            yield f"{where} has the name of one of the run's own splits ({', '.join(TAKEN)}). Rename it."
        if (other := seen.setdefault(str(name).lower(), str(name))) != str(name):
            yield f"{where} and fedmllm.test_sets.{other} differ in case only, and name files. Rename one."
        if not isinstance(given, Mapping):
            yield f"{where} is {given!r}; it must be a mapping, for example {{type: slake, root: slake}}."
            continue
        for key in given:
            if key not in _KEYS:
                yield f"unknown key '{where}.{key}'{nearest(str(key), _KEYS)} Known: {', '.join(_KEYS)}."
        for key in ("type", "root", "template"):
            value = given.get(key)
            if not (value is None or isinstance(value, str) or type(value) is int):
                yield f"{where}.{key} is {value!r}; it must be a text."
        if given.get("type") in (None, ""):
            yield f"{where}.type is not set; name a data set, as in data.type."
        if not (given.get("options") is None or isinstance(given["options"], Mapping)):
            yield f"{where}.options is {given['options']!r}; it must be a mapping, as fedmllm.data is."
