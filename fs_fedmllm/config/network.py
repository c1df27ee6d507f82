"""``fedmllm.network``: how a server and its clients reach each other."""

from __future__ import annotations

from dataclasses import dataclass

from fs_fedmllm.config.fields import ONE_OR_MORE, key


@dataclass(frozen=True)
class NetworkConfig:
    """``fedmllm.network``: distributed runs only."""

    address: str = key(
        "127.0.0.1:50051",
        "host:port. The server listens there, clients connect to it; on a client it is the name in the server's "
        "certificate.",
    )
    certificates: str = key("certs", "Folder with ca.crt and this site's certificate and key (fs-fedmllm certs).")
    insecure: bool = key(False, "Without encryption and certificates; on loopback addresses only.")
    max_message: int = key(
        4096, "Largest message that is sent or received; an adapter must fit.", unit="MiB", valid=ONE_OR_MORE
    )
