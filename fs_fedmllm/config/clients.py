"""``fedmllm.clients``, and FederatedScope's ``--client_cfg``: in what single clients differ from the rest."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from fs_fedmllm.config.overrides import override_pairs
from fs_fedmllm.errors import ConfigError

#: What a client may have for itself: how it trains in a round. Everything else is what clients share.
PER_CLIENT = ("train.optimizer.lr", "train.local_update_steps", "fedmllm.train.batch_size")
#: FederatedScope's names for the same.
SAME = {"dataloader.batch_size": "fedmllm.train.batch_size"}
_NAME = re.compile(r"client_([1-9]\d*)")


def client_id(name: str) -> int:
    """The id in ``client_3``; 0 for any other name."""
    found = _NAME.fullmatch(str(name))
    return int(found.group(1)) if found else 0


def site_client(index: Any, where: str = "") -> int:
    """The client that a site is by ``distribute.data_idx``; 0 where its folder names it.

    Raises:
        ConfigError: it is no client's id.
    """
    if type(index) is not int or index < -1:
        raise ConfigError(
            f"{where}distribute.data_idx is {index!r}; it is the client's id, or -1 where data.root is a folder that "
            "names it."
        )
    return max(index, 0)


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
