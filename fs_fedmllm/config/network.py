"""``fedmllm.network``: how a server and its clients reach each other, and how long they wait."""

from __future__ import annotations

from dataclasses import dataclass

from fs_fedmllm.keys import NOT_NEGATIVE, ONE_OR_MORE, POSITIVE, key


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
    own_rows: bool = key(
        False,
        "Where data.root is not a folder that data split wrote: True says that all its training rows are this "
        "client's; False, that it is the whole data set, of which the client takes its share of the scenario.",
        owner="site",
    )
    max_message: int = key(
        4096, "Largest message that is sent or received; an adapter must fit.", unit="MiB", valid=ONE_OR_MORE
    )
    min_clients: int = key(
        0,
        "Quorum: a round ends at its deadline if this many clients have answered, and otherwise waits for them; 0 is "
        "half of the round's clients, rounded up, and under secure aggregation its threshold.",
        unit="clients",
        valid=NOT_NEGATIVE,
    )
    join_timeout: float = key(
        600.0,
        "How long the server waits for every client when it starts, before it goes on with a quorum.",
        unit="seconds",
        valid=POSITIVE,
    )
    turn_timeout: float = key(
        3600.0,
        "How long a client may take for its update before the round ends without it.",
        unit="seconds",
        valid=POSITIVE,
    )
    give_up: float = key(
        21600.0,
        "How long a server without a quorum, or a client without a server, keeps trying before it stops; the same "
        "command resumes.",
        unit="seconds",
        valid=POSITIVE,
    )
    begin_timeout: float = key(
        120.0,
        "On NVFlare, how long a site's process may take to ask for its first task, counted from when the server is "
        "ready for it, before the run goes on without it or, with too few others, ends; it may still come later.",
        unit="seconds",
        valid=POSITIVE,
    )
