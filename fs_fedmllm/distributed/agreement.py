"""What the server and a client must agree on before a client's turn can mean anything.

Every key counts unless it is listed here as a site's own affair (where its files are, its threads, its device) or the
server's (evaluation, server optimizer, rounds). A key that is added later counts by itself.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from fs_fedmllm.config import Config, to_mapping
from fs_fedmllm.distributed.messages import shown

#: A site's own affair: keys, or sections with everything below them.
SITE = (
    *("outdir", "expname", "use_gpu", "device", "backend", "data.root", "fedmllm.data", "model.fedmllm.path"),
    *("model.fedmllm.revision", "model.fedmllm.trust_remote_code", "fedmllm.threads", "fedmllm.workers"),
    *("fedmllm.vision_cache", "fedmllm.network"),
)
#: The server's: a client never looks at them.
SERVER = (
    *("federate.mode", "federate.total_round_num", "federate.make_global_eval", "federate.share_local_model"),
    *("federate.save_to", "federate.restore_from", "federate.sample_client_num", "federate.sample_client_rate"),
    *("eval", "early_stop", "fedmllm.eval", "fedmllm.judge", "fedmllm.server", "fedmllm.checkpoint_every"),
    *("fedmllm.replay", "fedmllm.hub"),
)


def agreed_keys(config: Config) -> dict[str, Any]:
    """The keys that both sides must have alike, flat, with their values."""
    flat: dict[str, Any] = {}

    def walk(value: Mapping[str, Any], prefix: str) -> None:
        for name, item in value.items():
            path = f"{prefix}{name}"
            if path in SITE or path in SERVER:
                continue
            if isinstance(item, Mapping):
                walk(item, f"{path}.")
            else:
                flat[path] = item

    # JSON makes tuples lists and keys text, as the wire does: both sides compare what travels.
    walk(json.loads(json.dumps(to_mapping(config))), "")
    return flat


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


def digest(agreed: Mapping[str, Any]) -> str:
    """sha256 of the agreed keys."""
    return hashlib.sha256(json.dumps(agreed, sort_keys=True).encode()).hexdigest()
