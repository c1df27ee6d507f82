"""What a command line says over a configuration: ``key=value`` words, and FederatedScope's ``key value`` pairs."""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from fs_fedmllm.config.host_defaults import DEFAULTS
from fs_fedmllm.config.known_keys import known_keys, text_keys
from fs_fedmllm.errors import ConfigError
from fs_fedmllm.files.safe_yaml import parse_yaml

#: A whole override in one word; a key holds no ``=``, so the first one ends it.
_ONE_WORD = re.compile(r"([A-Za-z_][\w.-]*)=(.*)", re.DOTALL)
#: What YAML makes of a word that is a text here.
_NO_TEXT = (bool, int, float, datetime.date)
_EXAMPLE = "Write key=value or key value, for example: seed=7 eval.freq 5."
#: What ``run --tiny`` puts in place of the real model: the embedded one, which needs no download and no accelerator.
TINY = (
    *("model.fedmllm.path", "tiny", "model.fedmllm.dtype", "float32"),
    *("use_gpu", "False", "fedmllm.train.gradient_checkpointing", "False"),
)


def override_pairs(words: Sequence[str]) -> list[tuple[str, str]]:
    """The (key, value) pairs of a command line, in its order.

    A word in a key's place that holds a ``=`` is a whole override; any other takes the next word for its value,
    whatever that holds. So both forms can be mixed, and a value may hold ``=``.

    Args:
        words: ``seed=7 eval.freq 5 data.root=/a=b``.

    Raises:
        ConfigError: a key without a value, or blanks around a ``=``.
    """
    pairs: list[tuple[str, str]] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if found := _ONE_WORD.fullmatch(word):
            pairs.append((found.group(1), found.group(2)))
            continue
        if not rest or rest[0] == "=":
            blanks = " without blanks around the '='" if rest or (pairs and not pairs[-1][1]) else ""
            raise ConfigError(f"Overrides come in pairs; {word!r} has no value. {_EXAMPLE[:-1]}{blanks}.")
        pairs.append((word, rest.pop(0)))
    return pairs


def parse_override(text: str) -> Any:
    """The value of a word on the command line, as YAML reads it."""
    try:
        return parse_yaml(text)
    except yaml.YAMLError:
        return text


def apply_overrides(raw: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Apply overrides, as :func:`override_pairs` reads them, to a nested mapping.

    Of a key that stands twice the last one counts. A key whose value is a text gets the word itself (``007``, ``no``).

    Raises:
        ConfigError: a key without a value, a key through a value that is not a section, or a whole section, whose
            other keys would be lost.
    """
    merged: dict[str, Any] = {k: v for k, v in raw.items()}
    for name, text in override_pairs(overrides):
        if below := next((key for key in (*known_keys(), *DEFAULTS) if key.startswith(f"{name}.")), ""):
            raise ConfigError(f"Override {name!r} is a section. Give its keys one by one, for example {below}=...")
        node = merged
        *parents, last = name.split(".")
        for parent in parents:
            child = node.get(parent)
            if child is not None and not isinstance(child, Mapping):
                raise ConfigError(f"Override {name!r}: {parent!r} is a value, not a section.")
            node[parent] = dict(child or {})
            node = node[parent]
        value = parse_override(text)
        node[last] = text if name in text_keys() and (text == "~" or isinstance(value, _NO_TEXT)) else value
    return merged
