"""What the workers of one FederatedScope process share: the run's pieces and its book-keeping.

FederatedScope builds data, models, trainers and workers through separate registries that cannot see each other;
this is where they meet. There is one run in a process at a time.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

from fs_fedmllm.config import Config
from fs_fedmllm.errors import HostError
from fs_fedmllm.extras import check_extras
from fs_fedmllm.federated_data import FederatedData, prepare_data
from fs_fedmllm.federation import Federation
from fs_fedmllm.report.console import ConsoleProgress
from fs_fedmllm.run_folder import RunFolder
from fs_fedmllm.session import Session


@dataclass
class Runtime:
    """A run inside FederatedScope.

    Attributes:
        config: in our schema.
        data: rows by client.
        started: when the data closure was first called.
        client: the client's id where this process is one client of a distributed run; 0 elsewhere.
    """

    config: Config
    data: FederatedData
    started: float = field(default_factory=time.perf_counter)
    client: int = 0
    _federation: Federation | None = None
    _session: Session | None = None
    progress: ConsoleProgress | None = None

    @property
    def federation(self) -> Federation:
        """Model, trainer and evaluator; built at the first call."""
        if self._federation is None:
            self._federation = Federation.build(self.config, self.data)
        return self._federation

    @property
    def session(self) -> Session:
        """The server's book-keeping.

        Raises:
            HostError: no server was set up in this process.
        """
        if self._session is None:
            raise HostError("The run has no server in this process yet.")
        return self._session

    def site_folder(self, outdir: str) -> Path:
        """The run folder of this site of a distributed run: the same one at every start, until the run has ended.

        FederatedScope never writes into a folder that exists: it makes sub_exp_<time> inside, which would hide what
        an interrupted site has kept.
        """
        folder = Path(outdir)
        if folder.name.startswith("sub_exp_") and (self.client or not (folder.parent / "results.json").is_file()):
            folder = folder.parent
        return folder / f"client_{self.client}" if self.client else folder

    def open_session(self, outdir: str) -> Session:
        """Start the book-keeping in FederatedScope's output folder."""
        self.progress = ConsoleProgress(self.config)
        if self.config.federate.mode == "distributed":
            folder = RunFolder(self.site_folder(outdir), self.config)
            self._session = Session(self.federation, folder, self.progress, self.started)
            return self._session
        outer = Path(outdir)
        interrupted = outer.parent
        # FederatedScope never writes into a folder that exists: it makes sub_exp_<time> inside. A run of ours that
        # was killed goes on where it stands.
        begun = any((interrupted / name).is_file() for name in ("checkpoint/state.json", "privacy.jsonl"))
        if begun and not (interrupted / "results.json").is_file():
            outer = interrupted
        self._session = Session(self.federation, RunFolder(outer, self.config), self.progress, self.started)
        return self._session


_current: Runtime | None = None


def start(config: Config) -> Runtime:
    """Begin a run: read the data and apply the scenario."""
    global _current
    started = time.perf_counter()
    check_extras(config)
    _current = Runtime(config, prepare_data(config), started)
    return _current


def start_site(config: Config, role: str, client: int) -> Runtime:
    """Begin one site of a distributed run: read what belongs to it.

    Args:
        config: in our schema.
        role: ``server`` or ``client``.
        client: the client's id; 0 takes the one that its folder names.
    """
    global _current
    started = time.perf_counter()
    check_extras(config)
    from fs_fedmllm.distributed.roles import client_data, server_data

    if role == "server":
        _current = Runtime(config, server_data(config), started)
    else:
        found, data = client_data(config, client)
        _current = Runtime(config, data, started, found)
    return _current


def current() -> Runtime:
    """The process's run.

    Raises:
        HostError: the model, trainer or server was asked for without our data.
    """
    if _current is None:
        raise HostError("trainer.type fedmllm needs one of our data sets; data.type names none of them.")
    return _current
