"""Which run a configuration is: of every key, whose affair it is and whether it can change the run's numbers.

Both are declared with the key (or its section), once; the digest that names a run folder and a sweep's cell, what a
checkpoint belongs to, and what a server and its clients must have alike all follow from that.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fs_fedmllm.config.host_reading import nested, value_at
from fs_fedmllm.config.reading import to_mapping
from fs_fedmllm.config.schema import Config
from fs_fedmllm.files.sealing import json_sha256
from fs_fedmllm.keys import key_name, key_types
from fs_fedmllm.text_columns import cut


@dataclass(frozen=True)
class KeyFacts:
    """What is declared of a key.

    Attributes:
        owner: ``run`` (all sites have it alike), ``site`` (each has its own) or ``server`` (clients never look at it).
        numbers: whether it can change an adapter, a draw or a metric beyond the last bits of a sum's rounding.
        aside: entries of a mapping that cannot: what it is called, where images are written to.
    """

    owner: str = "run"
    numbers: bool = True
    aside: tuple[str, ...] = ()


@functools.cache
def key_facts() -> dict[str, KeyFacts]:
    """Facts by dotted key."""
    found: dict[str, KeyFacts] = {}

    def walk(cls: Any, prefix: str, above: KeyFacts) -> None:
        for f in dataclasses.fields(cls):
            name = key_name(f.name)
            owner, numbers = f.metadata.get("owner") or above.owner, f.metadata.get("numbers")
            aside = tuple(f.metadata.get("aside") or ())
            facts = KeyFacts(owner, above.numbers if numbers is None else numbers, aside)
            if dataclasses.is_dataclass(kind := key_types(cls)[name]):
                walk(kind, f"{prefix}{name}.", facts)
            else:
                found[f"{prefix}{name}"] = facts

    walk(Config, "", KeyFacts())
    return found


def flat(config: Config) -> dict[str, Any]:
    """Every key with its value, by dotted key; JSON makes tuples lists and keys text, as files and the wire do."""
    mapping = json.loads(json.dumps(to_mapping(config)))
    return {path: value_at(mapping, path) for path in key_facts()}


def settings(config: Config) -> dict[str, Any]:
    """The keys that can change the run's numbers, by dotted key, where they are not at their default.

    A key that a later version adds, at its default, changes nothing; so finished runs stay what they are.
    """
    usual, told = flat(Config()), {}
    for path, value in flat(config).items():
        facts = key_facts()[path]
        if facts.aside and isinstance(value, Mapping):
            value = {name: item for name, item in value.items() if name not in facts.aside}
        if facts.numbers and value != usual[path]:
            told[path] = value
    return told


def config_digest(config: Config) -> str:
    """sha256 of what determines a run's numbers; where, on what and how it runs does not count."""
    return json_sha256(nested(settings(config).items()))


def told_apart(there: Mapping[str, Any], here: Mapping[str, Any], most: int = 4) -> str:
    """What differs between the :func:`settings` of two runs, in words; empty if nothing does.

    Args:
        there: of the other run.
        here: of this one.
        most: keys that are named.
    """
    usual = flat(Config())
    names = sorted(name for name in {*there, *here} if _known(there, name, usual) != _known(here, name, usual))
    values = {name: [cut(repr(_known(told, name, usual)), 60) for told in (there, here)] for name in names}
    said = [f"{name} is {other} there and {own} here" for name, (other, own) in values.items()]
    more = f", and {len(said) - most} more" if len(said) > most else ""
    return "; ".join(said[:most]) + more


def _known(told: Mapping[str, Any], name: str, usual: Mapping[str, Any]) -> Any:
    return told[name] if name in told else usual.get(name)
