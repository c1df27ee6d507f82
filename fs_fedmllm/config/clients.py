"""``fedmllm.clients``, and FederatedScope's ``--client_cfg``: in what single clients differ from the rest."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fs_fedmllm.config.host_reading import leaves, put
from fs_fedmllm.config.overrides import override_pairs
from fs_fedmllm.errors import ConfigError

#: What a client may have for itself: how it trains in a round. Everything else is what clients share.
PER_CLIENT = ("train.optimizer.lr", "train.local_update_steps", "fedmllm.train.batch_size")
#: FederatedScope's names for the same.
_SAME = {"dataloader.batch_size": "fedmllm.train.batch_size"}
_NAME = re.compile(r"client_([1-9]\d*)")


def client_id(name: str) -> int:
    """The id in ``client_3``; 0 for any other name."""
    found = _NAME.fullmatch(str(name))
    return int(found.group(1)) if found else 0


def own_settings(
    raw: Any,
    where: str,
    *,
    known: Callable[[str], bool],
    unknown: Callable[[str], str],
    typed: Callable[[Mapping[str, Any], str], Mapping[str, Any]],
) -> dict[str, dict[str, Any]]:
    """Clients' own settings, checked and in one form.

    Args:
        raw: ``client_<id>`` -> nested keys, as FederatedScope's file has them.
        where: file name for error messages.
        known: whether a configuration or FederatedScope has a dotted key.
        unknown: what to say of a key that neither has.
        typed: the values of a nested mapping as the schema has them; refuses what is out of range.

    Returns:
        ``client_<id>`` -> nested keys of the schema, by id.

    Raises:
        ConfigError: a name that is no client's, or a key that clients cannot have for themselves.
    """
    if not isinstance(raw, Mapping):
        raise ConfigError(f"{where} must be a mapping of client_1, client_2, ... to their keys, got {raw!r}.")
    made: dict[str, dict[str, Any]] = {}
    for name, section in raw.items():
        if not client_id(name):
            raise ConfigError(f"{where}: {name!r} is not a client; write client_1, client_2, ... with their keys.")
        if section is None:
            continue
        if not isinstance(section, Mapping):
            raise ConfigError(f"{where}: {name} must be a mapping of keys to values, got {section!r}.")
        own: dict[str, Any] = {}
        given: dict[str, tuple[str, Any]] = {}
        for path, value in leaves(section):
            key = _SAME.get(path, path)
            if key not in PER_CLIENT:
                if not known(path):
                    raise ConfigError(f"{where}: {name}: {unknown(path)}")
                raise ConfigError(
                    f"{where}: {name}.{path} is {value!r}, but clients differ in {', '.join(PER_CLIENT[:-1])} and "
                    f"{PER_CLIENT[-1]} only. Remove it, or set {path} for all clients in the configuration."
                )
            if key in given and given[key][1] != value:
                raise ConfigError(
                    f"{where}: {name}.{path} gives {value!r} and {name}.{given[key][0]} {given[key][1]!r}, and both "
                    f"set {key}. Leave one of them out."
                )
            given[key] = (path, value)
            put(own, key, value)
        if own:
            made[str(name)] = dict(typed(own, f"{where}: {name}"))
    return {name: made[name] for name in sorted(made, key=client_id)}


def client_words(words: Sequence[str]) -> tuple[list[str], dict[str, list[str]]]:
    """Overrides for all clients, and those of single clients: ``client_3.train.optimizer.lr=0.1``.

    Args:
        words: as :func:`~fs_fedmllm.config.overrides.override_pairs` reads them.

    Returns:
        ``key value key value ...`` for everyone, and by client.
    """
    everyone: list[str] = []
    single: dict[str, list[str]] = {}
    for key, value in override_pairs(words):
        name, dot, rest = key.partition(".")
        if dot and client_id(name):
            single.setdefault(name, []).extend([rest, value])
        else:
            everyone += [key, value]
    return everyone, single
