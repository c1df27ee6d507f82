"""A site of a run as NVFlare's ``Executor``: passes tasks to the site's own process and its answers back.

NVFlare ends a job when the process that this runs in dies. So nothing is loaded or trained here: a site process that
is killed is started again, and its task is tried once more. What goes wrong there is told in the site's own files;
none of it goes through NVFlare's log, which it may stream to the server.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from nvflare.apis.event_type import EventType
from nvflare.apis.executor import Executor
from nvflare.apis.fl_constant import FLContextKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal

from fs_fedmllm.config import to_mapping
from fs_fedmllm.distributed.contracts import ANY_TENSORS
from fs_fedmllm.errors import ConfigError, FedMLLMError
from fs_fedmllm.hosts.nvflare.payload import pack, prepare, unpack
from fs_fedmllm.hosts.nvflare.settings import site_config
from fs_fedmllm.hosts.nvflare.site_process import SiteDied, SiteProcess, Spawned, failure, spawn
from fs_fedmllm.hosts.nvflare.told import may_read, tell


class FedMLLMExecutor(Executor):
    """One site.

    Args:
        sites: site by its certificate's name -> ids of its clients.
        label: name of the configuration, for the run folder's name where there is no ``expname``.
    """

    def __init__(self, sites: Mapping[str, Sequence[int]], label: str = ""):
        super().__init__()
        self._sites = {str(site): [int(client) for client in clients] for site, clients in sites.items()}
        self._label = label
        # It imports while the server's process does, for which NVFlare waits before it says that the run begins.
        self._spawned: Spawned | None = spawn()
        self._process: SiteProcess | None = None
        self._fault = ""

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Start the site's process with the job and end it with the job."""
        if event_type == EventType.START_RUN:
            prepare()
            workspace = Path(fl_ctx.get_prop(FLContextKey.WORKSPACE_ROOT))
            told = {"job": fl_ctx.get_job_id(), "folder": "", "error": ""}
            try:
                tell(workspace, told)
                self._start(fl_ctx, workspace)
            except (FedMLLMError, OSError) as error:  # told to the server when it asks; a wrong site ends no job
                self._fault = may_read(error)
                with contextlib.suppress(FedMLLMError, OSError):  # a disk that is full is told to the server
                    tell(workspace, {**told, "error": str(error)})
                print(f"fs-fedmllm: {error}", flush=True)  # to the site's terminal, not to NVFlare's log
                if self._spawned is not None:
                    self._spawned.close()
                    self._spawned = None
        elif event_type in (EventType.ABORT_TASK, EventType.END_RUN) and self._process is not None:
            self._process.close(at_once=event_type == EventType.ABORT_TASK)

    def _start(self, fl_ctx: FLContext, workspace: Path) -> None:
        name = fl_ctx.get_identity_name()
        if name not in self._sites:
            raise ConfigError(
                f"This site is {name!r}, and the job has {', '.join(self._sites)}. Make the job with fs-fedmllm "
                "nvflare job --sites, whose names are those of the certificates."
            ).telling("the job has no client for it")
        config = site_config(Path(fl_ctx.get_prop(FLContextKey.APP_ROOT)) / "config", workspace)
        spawned, self._spawned = self._spawned, None
        self._process = SiteProcess(to_mapping(config), workspace, name, self._sites, self._label, spawned)
        self._process.start()

    def execute(self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Shareable:
        """Pass a task to the site's process."""
        if self._process is None:
            return pack(failure(self._fault or "it has not started"))
        try:
            message = unpack(shareable, lambda kind, header: ANY_TENSORS)
            try:
                answer = self._process.exchange(message, lambda: bool(abort_signal.triggered))
            except SiteDied as died:
                if abort_signal.triggered:
                    raise
                self.log_warning(fl_ctx, f"{died}; it is started again")
                answer = self._process.exchange(message, lambda: bool(abort_signal.triggered))
        except FedMLLMError as error:
            answer = failure(str(error))
        return pack(answer)
