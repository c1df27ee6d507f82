"""What the workers of one FederatedScope process share: the run's pieces and its book-keeping.

FederatedScope builds data, models, trainers and workers through separate registries that cannot see each other;
this is where they meet. There is one run in a process at a time.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from pathlib import Path

from fs_fedmllm.config import Config
from fs_fedmllm.errors import HostError
from fs_fedmllm.extras import check_extras
from fs_fedmllm.rounds.federation import Federation
from fs_fedmllm.runs.opening import look_ahead
from fs_fedmllm.runs.progress import ConsoleProgress
from fs_fedmllm.runs.run_folder import LOCK, RunFolder, check_copy, is_finished, passed_over
from fs_fedmllm.runs.session import Session
from fs_fedmllm.scenarios.federated_data import FederatedData, counted, prepare_data

logger = logging.getLogger("fs_fedmllm.hosts")


@dataclass
class Runtime:
    """A run inside FederatedScope.

    Attributes:
        config: in our schema.
        data: rows by client.
        started: when the data closure was first called.
        client: the client's id where this process is one client of a distributed run; 0 elsewhere.
        folder: this site's run folder, held for this process alone.
    """

    config: Config
    data: FederatedData
    started: float = field(default_factory=time.perf_counter)
    client: int = 0
    folder: RunFolder | None = None
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
        folder = self.folder or self.claim(outdir)
        self._session = Session(self.federation, folder, self.progress, self.started)
        return self._session

    def claim(self, outdir: str) -> RunFolder:
        """Hold this site's run folder, and say where its run goes on; before a model is loaded.

        Raises:
            LockedError: another process is at it.
            ConfigError: it holds another run's checkpoint, or a damaged one.
        """
        if self.config.federate.mode == "distributed":
            path = self.site_folder(outdir)
            if not self.client and path == Path(outdir) and path.name.startswith("sub_exp_"):
                logger.warning("%s. This one goes to %s.", passed_over(path.parent, self.config), path)
        else:
            path = self._standalone_folder(Path(outdir))
        folder = RunFolder(path, self.config)
        folder.lock()
        if is_finished(path) and path != Path(outdir):  # it came to its end in this very moment
            folder.unlock()
            folder = RunFolder(Path(outdir), self.config)
            folder.lock()
        self.folder = folder
        if not self.client:
            check_copy(self.config.federate.save_to)
            look_ahead(self.config, folder.path, self.data)
        return folder

    def _standalone_folder(self, outer: Path) -> Path:
        """FederatedScope never writes into a folder that exists: it makes sub_exp_<time> inside.

        A run of ours that was killed goes on where it stands; one that is still going on is in the way.
        """
        if not outer.name.startswith("sub_exp_"):
            return outer
        earlier = outer.parent
        if is_finished(earlier):
            logger.warning("%s. This one goes to %s.", passed_over(earlier, self.config), outer)
            return outer
        begun = any((earlier / name).is_file() for name in (LOCK, "checkpoint/state.json", "privacy.jsonl"))
        return earlier if begun else outer

    def leave(self) -> None:
        """Let go of the run folder."""
        if self.folder is not None:
            self.folder.unlock()


_current: Runtime | None = None


def _begin(run: Runtime, outdir: str) -> Runtime:
    global _current
    if _current is not None:
        _current.leave()
    _current = run
    if outdir:
        run.claim(outdir)
    return run


def start(config: Config, outdir: str = "") -> Runtime:
    """Begin a run: read the data, apply the scenario, and hold the run folder.

    Args:
        config: in our schema.
        outdir: FederatedScope's output folder; empty leaves the run folder for later.
    """
    started = time.perf_counter()
    check_extras(config)
    config, dataset = counted(config)
    return _begin(Runtime(config, prepare_data(config, dataset), started), outdir)


def start_site(config: Config, role: str, client: int, outdir: str = "") -> Runtime:
    """Begin one site of a distributed run: read what belongs to it.

    Args:
        config: in our schema.
        role: ``server`` or ``client``.
        client: the client's id; 0 takes the one that its folder names.
        outdir: as for :func:`start`.
    """
    started = time.perf_counter()
    check_extras(config, evaluates=role == "server")
    from fs_fedmllm.distributed.roles import client_data, server_data, site_config

    config = site_config(config)
    if role == "server":
        return _begin(Runtime(config, server_data(config), started), outdir)
    found, data = client_data(config, client)
    return _begin(Runtime(config, data, started, found), outdir)


def current() -> Runtime:
    """The process's run.

    Raises:
        HostError: the model, trainer or server was asked for without our data.
    """
    if _current is None:
        raise HostError("trainer.type fedmllm needs one of our data sets; data.type names none of them.")
    return _current
