"""Which client is where: NVFlare's sites, by the names in their certificates, and the ids of their clients."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from fs_fedmllm.errors import ConfigError

#: What NVFlare calls the server among a job's places.
SERVER = "server"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def dealt(names: Sequence[str], clients: int) -> dict[str, list[int]]:
    """Clients over sites: the first to the first, and on in turn.

    Args:
        names: of the sites, in order.
        clients: of the run.

    Raises:
        ConfigError: more sites than clients, no number of clients, or a name that is none.
    """
    if clients < 1:
        raise ConfigError(
            "federate.client_num is not set, and whoever makes a job need not have the rows that could say it "
            "(fedmllm_given). Set it; data check of the configuration, where the rows are, counts the clients."
        )
    if len(names) > clients:
        raise ConfigError(
            f"{len(names)} sites are named for {clients} clients (federate.client_num); each site needs one."
        )
    sites = {name: list(range(first, clients + 1, len(names))) for first, name in enumerate(names, 1)}
    check_sites(sites, clients)
    return sites


def sites_of(meta: Mapping[str, Any]) -> list[str]:
    """The sites of a job, without the server.

    Args:
        meta: of the job, as in its ``meta.json``, or as NVFlare gives it: its ``deploy_map`` may then be JSON, and an
            entry of that ``{"sites": [...]}`` in place of a list.

    Raises:
        ValueError, LookupError, TypeError, AttributeError: it is none.
    """
    deployed = meta["deploy_map"]
    deployed = json.loads(deployed) if isinstance(deployed, str) else deployed
    entries = [names.get("sites", ()) if isinstance(names, dict) else names for names in deployed.values()]
    return [str(name) for names in entries for name in names if name != SERVER]


def check_sites(sites: Mapping[str, Sequence[int]], clients: int) -> None:
    """Every client has one site, and every site a client.

    Raises:
        ConfigError: names what is wrong.
    """
    for name, own in sites.items():
        if not _NAME.fullmatch(name) or name == SERVER:
            raise ConfigError(f"{name!r} cannot be a site's name: letters, digits and . _ - are.")
        if not own:
            raise ConfigError(f"The site {name!r} has no client.")
    placed = sorted(client for own in sites.values() for client in own)
    if placed != list(range(1, clients + 1)):
        raise ConfigError(
            f"The sites have the clients {placed}; every client from 1 to {clients} (federate.client_num) belongs to "
            "one site."
        )
