"""Start a site: data by role, model, transport, signals, and then the server's or the client's loop."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from fs_fedmllm.config import Config
from fs_fedmllm.config.network import NetworkConfig
from fs_fedmllm.distributed import client as client_side
from fs_fedmllm.distributed import server as server_side
from fs_fedmllm.distributed.answering import Handler
from fs_fedmllm.distributed.attendance import Stopped
from fs_fedmllm.distributed.client import RoundClient
from fs_fedmllm.distributed.contracts import Contract, FrameLimits
from fs_fedmllm.distributed.identity import Identity
from fs_fedmllm.distributed.journal import Journal, StatusFile
from fs_fedmllm.distributed.messages import Message
from fs_fedmllm.distributed.phases import Rounds, plain_round
from fs_fedmllm.distributed.roles import (
    agreement,
    checked,
    introduction,
    site_identity,
    split_of_clients,
    update_handler,
)
from fs_fedmllm.distributed.server import RoundServer
from fs_fedmllm.distributed.site_store import SiteStore
from fs_fedmllm.distributed.transport import Exchange, Limits, Peer, TransportServer
from fs_fedmllm.distributed.transport_client import TransportClient
from fs_fedmllm.models.export import write_adapter
from fs_fedmllm.models.fingerprint import base_fingerprint, processor_files
from fs_fedmllm.rounds.federation import Federation
from fs_fedmllm.runs.session import Session
from fs_fedmllm.scenarios.federated_data import FederatedData

logger = logging.getLogger("fs_fedmllm.distributed")

#: Folder of a client's state inside its run folder.
STATE = "state"


@contextlib.contextmanager
def on_termination(stop: Callable[[], None]) -> Iterator[None]:
    """Call ``stop`` at the first SIGTERM or SIGINT; the second one ends the process as usual."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread hears signals; whoever started us stops us
        return
    before = {name: signal.getsignal(name) for name in (signal.SIGTERM, signal.SIGINT)}

    def hear(number: int, frame: object) -> None:
        for name, handler in before.items():
            signal.signal(name, handler)
        logger.warning("Asked to stop (%s); the same command resumes.", signal.Signals(number).name)
        stop()

    for name in before:
        signal.signal(name, hear)
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)


def frame_limits(settings: NetworkConfig) -> FrameLimits:
    """The largest message, as the configuration says."""
    return FrameLimits(message_bytes=settings.max_message << 20)


def transport_limits(config: Config) -> Limits:
    """What the server takes from its clients, all of which may wait for work at the same time."""
    every = Limits(frames=frame_limits(config.fedmllm.network))
    return replace(every, exchanges=max(64, every.exchanges_per_client * config.federate.client_num))


def identity(settings: NetworkConfig, client: int = 0) -> Identity:
    """This site's identity: its certificate, or none on loopback.

    Raises:
        IdentityError: a certificate or key is missing or wrong.
    """
    return Identity.plaintext(client) if settings.insecure else Identity.load(Path(settings.certificates), client)


def rounds_of(config: Config) -> Rounds:
    """The phases of a round."""
    if config.fedmllm.privacy.secure_aggregation.enabled:
        from fs_fedmllm.distributed.secure_round import secure_round

        return secure_round
    return plain_round


def handlers_of(
    config: Config, client: int, federation: Federation, folder: Path, who: Identity
) -> Mapping[str, Handler]:
    """What a client does, by phase; under secure aggregation it knows no phase that sends an update in the clear."""
    if config.fedmllm.privacy.secure_aggregation.enabled:
        from fs_fedmllm.distributed.secure_client import SecureRoundClient

        train = checked(federation.clients)
        return SecureRoundClient(config, client, federation.server, train, folder, who).handlers()
    return {"turn": update_handler(client, checked(federation.clients))}


def store_of(config: Config, client: int, data: FederatedData, folder: Path) -> SiteStore:
    """What a client keeps from one answer to the next.

    Raises:
        ConfigError: the folder holds another run's state, or a damaged one.
    """
    belongs = site_identity(config, client, data.clients[client], data.template)
    return SiteStore(folder / STATE, belongs, needed=bool(config.method.keeps))


def write_last(folder: Path, federation: Federation, last: Message) -> None:
    """Write the final adapter into a client's run folder, if the server's last word has one of this model's."""
    state = federation.initial_state()
    if set(last.tensors) >= set(state):
        write_adapter(folder / "adapter", federation.mllm, {name: last.tensors[name] for name in state})


def server_of(
    session: Session,
    data: FederatedData,
    traffic: Callable[[], tuple[int, int]],
    *,
    linger: float = server_side.LINGER,
) -> RoundServer:
    """The round loop of a run, by whatever way its clients are reached.

    Args:
        session: the run's book-keeping.
        data: what the server has.
        traffic: bytes received and sent so far.
        linger: how long to stay for clients that have not heard of the end, in seconds.
    """
    config = session.config
    return RoundServer(
        session,
        config.fedmllm.network,
        agreed=agreement(config, data.template),
        manifest=split_of_clients(data),
        base=base_fingerprint(config.model.fedmllm),
        processor=processor_files(config.model.fedmllm),
        traffic=traffic,
        rounds=rounds_of(config),
        linger=linger,
    )


def serve(session: Session, data: FederatedData, *, linger: float = server_side.LINGER) -> dict[str, Any] | None:
    """Run the server of a distributed run.

    Args:
        session: the run's book-keeping.
        data: what the server has.
        linger: how long to stay for clients that have not heard of the end, in seconds.

    Returns:
        The results, or None if the server was asked to stop; the same command resumes.

    Raises:
        FedMLLMError: see :meth:`RoundServer.run`; ConfigError and IdentityError for address and certificates.
    """
    config = session.config
    settings = config.fedmllm.network
    made: list[RoundServer] = []

    def handler(peer: Peer, message: Message, exchange: Exchange) -> Message:
        return made[0].desk.handle(peer.client, message, exchange)

    def contract(peer: Peer, kind: str, header: Mapping[str, Any]) -> Contract:
        return made[0].desk.contract(kind, header)

    def admits(peer: Peer) -> None:
        made[0].desk.admit(peer.client)

    who, limits = identity(settings), transport_limits(config)
    transport = TransportServer(settings.address, handler, who, limits, contract, admits)

    def traffic() -> tuple[int, int]:
        return transport.traffic.received, transport.traffic.sent

    server = server_of(session, data, traffic, linger=linger)
    made.append(server)
    with on_termination(server.stop), transport:
        logger.info("Listening on %s (port %d).", settings.address, transport.port)
        try:
            return server.run()
        except Stopped:
            transport.stop()  # with a moment for the answers that tell the clients
            return None


def take_part(
    config: Config,
    client: int,
    data: FederatedData,
    federation: Federation,
    folder: Path,
    handlers: Mapping[str, Handler] | None = None,
) -> Mapping[str, Any] | None:
    """Run a client of a distributed run.

    Args:
        config: of the site.
        client: id.
        data: the client's rows.
        federation: trains.
        folder: the client's run folder; its state is kept in it.
        handlers: what it does, by phase; by default, what :func:`handlers_of` says.

    Returns:
        The server's closing figures, or None if the client was asked to stop; the same command resumes.

    Raises:
        FedMLLMError: see :meth:`RoundClient.run`; ConfigError and IdentityError for address and certificates.
    """
    settings = config.fedmllm.network
    folder.mkdir(parents=True, exist_ok=True)
    store = store_of(config, client, data, folder)
    # The channel tries once: the site itself tries again, says that the server is out of reach, and gives up in time.
    limits, who = frame_limits(settings), identity(settings, client)
    with TransportClient(settings.address, who, limits) as channel:
        site = RoundClient(
            channel,
            client,
            introduction(config, client, data),
            handlers_of(config, client, federation, folder, who) if handlers is None else handlers,
            store,
            settings,
            Journal(folder, f"client {client}"),
            StatusFile(folder),
        )
        with on_termination(site.stop):
            try:
                last = site.run()
            except client_side.Stopped:
                return None
    write_last(folder, federation, last)
    return last.header
