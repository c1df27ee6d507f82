"""Startup kits of NVFlare as provisioning makes them, as far as we look at them: certificates and who they are for."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from nvflare.lighter.utils import Identity, generate_cert, generate_keys, serialize_cert, serialize_pri_key


def certified(folder: Path, names: Iterable[str]) -> dict[str, Path]:
    """Workspaces by the name in their certificates, all of one authority.

    Args:
        folder: where they are made, each in a folder of its name.
        names: of the sites.
    """
    key, public = generate_keys()
    root = Identity("hospitals")
    authority = generate_cert(root, root, key, public, ca=True)
    made = {}
    for name in names:
        own_key, own_public = generate_keys()
        certificate = generate_cert(Identity(name, "org"), root, key, own_public)
        startup = folder / name / "startup"
        startup.mkdir(parents=True)
        (startup / "fed_client.json").write_text(json.dumps({"client": {"fqsn": name}}))
        (startup / "rootCA.pem").write_bytes(serialize_cert(authority))
        (startup / "client.crt").write_bytes(serialize_cert(certificate))
        (startup / "client.key").write_bytes(serialize_pri_key(own_key))
        made[name] = startup.parent
    return made
