"""What the server and a client must agree on before a client's update can mean anything.

Every key counts unless it is declared a site's own affair (where its files are, its threads, its device), the server's
(evaluation, server optimizer, rounds), or one that changes no number. A key that is added later counts by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fs_fedmllm.config import Config, key_facts
from fs_fedmllm.config.host_reading import leaves
from fs_fedmllm.config.identity import flat
from fs_fedmllm.distributed.messages import shown
from fs_fedmllm.files.sealing import json_sha256


def agreed_keys(config: Config) -> dict[str, Any]:
    """The keys that both sides must have alike, flat, with their values."""
    facts = key_facts()
    own = flat(config).items()  # as it travels: both sides compare what came over the wire
    return dict(leaves({path: value for path, value in own if facts[path].owner == "run" and facts[path].numbers}))


def differences(server: Mapping[str, Any], client: Mapping[str, Any]) -> list[str]:
    """Keys on which the two differ, each as a sentence's part with both values."""
    found = []
    for name in sorted({*server, *client}):
        if name not in client:
            found.append(f"{name} is not in the client's")
        elif name not in server:
            found.append(f"{shown(name)} is not in the server's")
        elif server[name] != client[name]:
            found.append(f"{name} is {shown(client[name])} on the client and {shown(server[name])} on the server")
    return found


def common_digest(config: Config) -> str:
    """sha256 of the agreed keys, for folders' names: a site's own keys (``data.root``) do not count."""
    return json_sha256(agreed_keys(config))
