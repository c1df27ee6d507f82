"""FederatedScope's distributed mode with our transport: its own port is never opened.

FederatedScope's workers make a gRPC manager when they are constructed, which listens without encryption and unpickles
what it gets. While one of ours is constructed, the name that they look up is that of :class:`NoPort`; before and after
it is FederatedScope's own, so other jobs notice nothing.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fs_fedmllm.errors import HostError
from fs_fedmllm.hosts.federatedscope import runtime
from fs_fedmllm.runs.session import Session

_MODULES = ("federatedscope.core.workers.server", "federatedscope.core.workers.client")
_NAME = "gRPCCommManager"


class NoPort:
    """In the place of FederatedScope's gRPC manager: opens no port, and sends and receives nothing."""

    def __init__(self, host: str = "", port: Any = "", client_num: int = 0, cfg: Any = None):
        self.host, self.port = host, port
        self.monitor: Any = None

    def add_neighbors(self, neighbor_id: Any, address: Any) -> None:
        """Nobody is called from here."""

    def get_neighbors(self, neighbor_id: Any = None) -> dict[Any, Any]:
        """Nobody is known here."""
        return {}

    def send(self, message: Any) -> None:
        """FederatedScope's own messages have no way out.

        Raises:
            HostError: always.
        """
        raise HostError("FederatedScope's own messages are not sent in a run with trainer.type fedmllm.")

    receive = send


@contextlib.contextmanager
def no_port() -> Iterator[None]:
    """While active, FederatedScope's workers are built without its gRPC manager."""
    modules = [importlib.import_module(name) for name in _MODULES]
    before = [vars(module)[_NAME] for module in modules]
    for module in modules:
        vars(module)[_NAME] = NoPort
    try:
        yield
    finally:
        for module, original in zip(modules, before, strict=True):
            vars(module)[_NAME] = original


def run_server(session: Session) -> None:
    """The server of a distributed run, until its end or until it is asked to stop."""
    # Here and not above: a run on one machine imports this module too, and has no need of the extra "distributed".
    from fs_fedmllm.distributed.run_site import end_of_server
    from fs_fedmllm.distributed.service import serve

    run = runtime.current()
    try:
        results = serve(session, run.data)
    finally:
        run.leave()
    if run.progress is not None:
        run.progress.close()
    print(end_of_server(session, results), flush=True)


def run_client(folder: Path) -> None:
    """One client of a distributed run, until its end or until it is asked to stop."""
    from fs_fedmllm.distributed.run_site import work

    run = runtime.current()
    try:
        said = work(run.config, run.client, run.data, run.federation, folder)
    finally:
        run.leave()
    print(said, flush=True)
