"""A server and its clients in one process, for tests: threads, one shared model behind a lock, no sockets."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from waiting import LONG

from fs_fedmllm.distributed.client import RoundClient
from fs_fedmllm.distributed.contracts import ANY_TENSORS, Contract
from fs_fedmllm.distributed.errors import UnreachableError
from fs_fedmllm.distributed.frames import decode, encode
from fs_fedmllm.distributed.identity import Identity
from fs_fedmllm.distributed.journal import Journal, StatusFile
from fs_fedmllm.distributed.messages import Message
from fs_fedmllm.distributed.roles import agreement, introduction, site_identity, update_handler
from fs_fedmllm.distributed.server import RoundServer
from fs_fedmllm.distributed.service import handlers_of, rounds_of
from fs_fedmllm.distributed.site_store import SiteStore
from fs_fedmllm.rounds.client import ClientSide
from fs_fedmllm.rounds.client_update import ClientUpdate
from fs_fedmllm.rounds.federation import Federation
from fs_fedmllm.runs.listener import Listener
from fs_fedmllm.runs.run_folder import RunFolder
from fs_fedmllm.runs.session import Session
from fs_fedmllm.scenarios.federated_data import FederatedData


class Wire:
    """Clients' calls as function calls, through the real frames; without one there is no server."""

    #: Those of the test that runs; what is left of them at its end is ended (conftest).
    made: ClassVar[list[Wire]] = []

    def __init__(self) -> None:
        Wire.made.append(self)
        self.server: RoundServer | None = None
        self.sites: list[RoundClient] = []
        #: Looked at with every request: (client, message) -> None, or raises UnreachableError.
        self.before: Callable[[int, Message], None] = lambda client, message: None
        #: Looked at with every answer, after the server has acted.
        self.after: Callable[[int, Message, Message], None] = lambda client, message, answer: None

    def end(self) -> None:
        """Nobody goes on calling: a site that a test leaves behind would do so until the process ends."""
        for site in self.sites:
            site._stopping = True
        if self.server is not None:
            self.server.stop()
        self.server = None

    def channel(self, client: int) -> Any:
        wire = self

        class Channel:
            def exchange(self, message: Message, timeout: float, contract: Contract = ANY_TENSORS) -> Message:
                wire.before(client, message)
                server = wire.server
                if server is None:
                    raise UnreachableError("no server")
                there = decode(encode(message), server.desk.contract)
                answer = server.desk.handle(client, there)
                if wire.server is not server:
                    raise UnreachableError("the server went away")
                wire.after(client, message, answer)
                return decode(encode(answer), lambda kind, header: contract)

        return Channel()


def server_of(
    federation: Federation, folder: Path, wire: Wire, clock: Callable[[], float] = time.monotonic, **network: Any
) -> RoundServer:
    """A server over a fresh session in a folder; it resumes what lies there."""
    config = federation.config
    settings = replace(config.fedmllm.network, join_timeout=LONG, turn_timeout=LONG, give_up=LONG)
    settings = replace(settings, **network)
    session = Session(federation, RunFolder(folder, config), Listener())
    agreed = agreement(config, federation.data.template)
    made = RoundServer(session, settings, agreed=agreed, rounds=rounds_of(config), clock=clock, linger=5.0)
    wire.server = made
    return made


def site_of(
    federation: Federation, client: int, folder: Path, wire: Wire, train: Any = None, **introduced: Any
) -> RoundClient:
    """A client over its rows; ``train`` replaces the training."""
    config, rows = federation.config, federation.data.clients[client]
    own = FederatedData(federation.data.dataset, federation.data.template, {client: rows}, federation.data.manifest)
    settings = replace(config.fedmllm.network, give_up=LONG)
    folder = folder / f"client_{client}"
    folder.mkdir(parents=True, exist_ok=True)
    made = RoundClient(
        wire.channel(client),
        client,
        introduction(config, client, own) | introduced,
        {"turn": update_handler(client, train)}
        if train
        else handlers_of(config, client, federation, folder, Identity.plaintext(client)),
        SiteStore(folder / "state", site_identity(config, client, rows)),
        settings,
        Journal(folder, f"client {client}"),
        StatusFile(folder),
        sleep=lambda seconds: threading.Event().wait(min(seconds, 0.05)),
    )
    wire.sites.append(made)
    return made


class Started:
    """A loop on a thread of its own, with what came of it."""

    def __init__(self, run: Callable[[], Any]):
        self.result: Any = None
        self.error: BaseException | None = None

        def body() -> None:
            try:
                self.result = run()
            except BaseException as error:
                self.error = error

        self._thread = threading.Thread(target=body, daemon=True)
        self._thread.start()

    def join(self, timeout: float = LONG) -> Any:
        """What the loop returned; raises what it raised."""
        self._thread.join(timeout)
        assert not self._thread.is_alive(), "the loop hangs"
        if self.error is not None:
            raise self.error
        return self.result


#: One update or evaluation at a time: every site of a test shares its model.
_LOCK = threading.Lock()


class _LockedClients(ClientSide):
    def update(self, *args: Any, **kwargs: Any) -> ClientUpdate:
        with _LOCK:
            return super().update(*args, **kwargs)


class _LockedFederation(Federation):
    @property
    def clients(self) -> ClientSide:
        return _LockedClients(**vars(super().clients))

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        with _LOCK:
            return super().evaluate(*args, **kwargs)

    def right_alone(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        with _LOCK:
            return super().right_alone(*args, **kwargs)


def locked(federation: Federation) -> Federation:
    """The federation with one update or evaluation at a time."""
    return _LockedFederation(**vars(federation))


def events(folder: Path, name: str) -> list[dict[str, Any]]:
    """Events of a kind that a site has written."""
    lines = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == name]
