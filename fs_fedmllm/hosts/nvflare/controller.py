"""The server of a run as NVFlare's ``Controller``: the usual round loop, whose clients are reached by tasks.

A job's workspace goes with the job, so the run's folder lies outside it, in the server's own workspace: the same job,
submitted again, goes on from the last round.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nvflare.apis.client import Client
from nvflare.apis.controller_spec import ClientTask, Task
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import FLContextKey, ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.impl.controller import Controller
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal
from nvflare.widgets.info_collector import GroupInfoCollector, InfoCollector

from fs_fedmllm.config import Config
from fs_fedmllm.distributed.agreement import common_digest
from fs_fedmllm.distributed.attendance import Stopped
from fs_fedmllm.distributed.messages import Message
from fs_fedmllm.distributed.roles import server_data
from fs_fedmllm.distributed.roster import stamp
from fs_fedmllm.distributed.server import RoundServer
from fs_fedmllm.distributed.service import frame_limits, server_of
from fs_fedmllm.errors import FedMLLMError, HostError
from fs_fedmllm.extras import check_extras
from fs_fedmllm.hosts.nvflare.allocator import TidyProgress, keep_no_large_blocks
from fs_fedmllm.hosts.nvflare.dispatch import Dispatch
from fs_fedmllm.hosts.nvflare.payload import PREFIX, arriving_on_disk, pack, prepare
from fs_fedmllm.hosts.nvflare.server_log import foreign_certificates, last_lines
from fs_fedmllm.hosts.nvflare.settings import site_config
from fs_fedmllm.hosts.nvflare.sites import check_sites
from fs_fedmllm.hosts.nvflare.told import is_final, tell
from fs_fedmllm.rounds.federation import Federation
from fs_fedmllm.runs.log_file import log_in
from fs_fedmllm.runs.opening import look_ahead
from fs_fedmllm.runs.run_folder import check_output, claimed
from fs_fedmllm.runs.session import Session

logger = logging.getLogger("fs_fedmllm.nvflare")

#: How often the controller looks whether the job is to be aborted, in seconds.
_LOOK_UP = 0.5


class FedMLLMController(Controller):
    """The server of a run.

    Args:
        sites: site by its certificate's name -> ids of its clients.
        label: name of the configuration, for the run folder's name where there is no ``expname``.
    """

    def __init__(self, sites: Mapping[str, Sequence[int]], label: str = ""):
        super().__init__(task_check_period=0.1)
        self._sites = {str(site): [int(client) for client in clients] for site, clients in sites.items()}
        self._label = label
        self._server: RoundServer | None = None
        self._dispatch: Dispatch | None = None
        self._context: FLContext | None = None

    # NVFlare's calls --------------------------------------------------------------------------------------------

    def start_controller(self, fl_ctx: FLContext) -> None:
        """Nothing of the run yet: NVFlare lets no site in until this returns."""
        prepare()
        keep_no_large_blocks()

    def control_flow(self, abort_signal: Signal, fl_ctx: FLContext) -> None:
        """The whole run."""
        started = time.perf_counter()
        self._context = fl_ctx
        workspace = Path(fl_ctx.get_prop(FLContextKey.WORKSPACE_ROOT))
        told: dict[str, Any] = {"job": fl_ctx.get_job_id(), "folder": "", "error": "", "final": False, "done": False}
        tell(workspace, told)
        try:
            config = site_config(Path(fl_ctx.get_prop(FLContextKey.APP_ROOT)) / "config", workspace)
            check_sites(self._sites, config.federate.client_num)
            self._run(config, abort_signal, started, told)
        except FedMLLMError as error:
            told |= {"error": str(error), "final": is_final(error)}
            self.log_error(fl_ctx, str(error))
            self.system_panic(f"fs-fedmllm: {error}", fl_ctx)
        except Exception as error:
            told["error"] = f"{type(error).__name__}: {error}"
            raise
        finally:
            tell(workspace, told)

    def stop_controller(self, fl_ctx: FLContext) -> None:
        """The job ends, whatever the reason."""
        if self._server is not None:
            self._server.stop()
        if self._dispatch is not None:
            self._dispatch.end()

    def process_result_of_unknown_task(
        self, client: Client, task_name: str, client_task_id: str, result: Shareable, fl_ctx: FLContext
    ) -> None:
        """A late result changes nothing; its site is asked again who is there."""
        logger.info("%s answered %s when that was over.", client.name, task_name)

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Tell NVFlare's ``show_stats`` how the run stands, and hear of sites that go and come back."""
        super().handle_event(event_type, fl_ctx)
        if self._dispatch is not None and event_type == EventType.CLIENT_DISCONNECTED:
            self._dispatch.lost(fl_ctx.get_prop(FLContextKey.DISCONNECTED_CLIENT_NAME))
        if self._dispatch is not None and event_type == EventType.CLIENT_RECONNECTED:
            self._dispatch.found(fl_ctx.get_prop(FLContextKey.RECONNECTED_CLIENT_NAME))
        if event_type == InfoCollector.EVENT_TYPE_GET_STATS and self._server is not None:
            collector = fl_ctx.get_prop(InfoCollector.CTX_KEY_STATS_COLLECTOR)
            if isinstance(collector, GroupInfoCollector):
                collector.set_info("fs_fedmllm", self._named(self._server.status()))

    def _named(self, status: dict[str, Any]) -> dict[str, Any]:
        """A status in which a client without a name of its own has its site's."""
        site_of = {client: site for site, clients in self._sites.items() for client in clients}
        clients = [{**entry, "name": entry["name"] or site_of[entry["client"]]} for entry in status["clients"]]
        return {**status, "clients": clients, "updated": stamp(time.time())}

    # The run ----------------------------------------------------------------------------------------------------

    def _run(self, config: Config, abort_signal: Signal, started: float, told: dict[str, Any]) -> None:
        check_extras(config)
        check_output(config.outdir)
        with claimed(config, self._label, common_digest(config)) as folder:
            told["folder"] = str(folder.path)
            assert self._context is not None
            with log_in(folder.path), arriving_on_disk(self._context.get_engine(), folder.path):
                data = server_data(config)
                look_ahead(config, folder.path, data)
                progress = TidyProgress(config)
                session = Session(Federation.build(config, data), folder, progress, started)
                self._server = server = server_of(session, data, self._traffic)
                there = [client.name for client in self._context.get_engine().get_clients()]
                network = config.fedmllm.network
                limits = frame_limits(network)
                self._dispatch = Dispatch(server.desk, self._sites, self, limits, network, there, self._foreign)
                with self._carrying(self._dispatch, server, abort_signal):
                    try:
                        server.run()
                        told["done"] = True
                    except Stopped:
                        told["error"] = f"stopped after round {session.state.round}; the same job resumes the run"
                        if not abort_signal.triggered:  # NVFlare would call a job that returns completed
                            raise HostError(told["error"]) from None
                progress.close()

    def _foreign(self) -> dict[str, str]:
        """Sites that NVFlare takes nothing from, since they show another one's certificate, and whose it is."""
        assert self._context is not None
        workspace = Path(self._context.get_prop(FLContextKey.WORKSPACE_ROOT))
        lines = last_lines(workspace, str(self._context.get_job_id()))
        return {site: owner for site, (owner, _) in foreign_certificates(lines).items() if site in self._sites}

    def _traffic(self) -> tuple[int, int]:
        return (0, 0) if self._dispatch is None else (self._dispatch.received, self._dispatch.sent)

    @contextmanager
    def _carrying(self, dispatch: Dispatch, server: RoundServer, abort_signal: Signal) -> Iterator[None]:
        """Tasks go out, and an abort stops the round loop, for the length of a block."""
        over = threading.Event()

        def watch() -> None:
            while not over.wait(_LOOK_UP):
                if abort_signal.triggered:
                    server.stop()
                    dispatch.end()
                    return

        def hand_out() -> None:
            try:
                dispatch.run()
            except Exception:  # without tasks the round loop would wait for its deadlines
                logger.exception("No more tasks can be given to sites")
                server.stop()

        threads = [
            threading.Thread(target=watch, name="fedmllm-abort", daemon=True),
            threading.Thread(target=hand_out, name="fedmllm-dispatch", daemon=True),
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            over.set()
            dispatch.end()
            for thread in threads:
                thread.join()

    # Tasks ------------------------------------------------------------------------------------------------------

    def hand_out(
        self, site: str, message: Message, back: Callable[[str, Any], None], fetched: Callable[[], None]
    ) -> Task:
        """Give a site a task."""

        def received(client_task: ClientTask, fl_ctx: FLContext) -> None:
            result = client_task.result
            client_task.result = None  # NVFlare would keep it until the task is cleared away
            code = result.get_return_code()
            if code != ReturnCode.OK:
                result = pack(Message("failed", {"failed": f"NVFlare says {code}"}))
            back(client_task.client.name, result)

        def sent(client_task: ClientTask, fl_ctx: FLContext) -> None:
            fetched()

        name = PREFIX + str(message.header.get("phase", message.kind))
        task = Task(name, pack(message), after_task_sent_cb=sent, result_received_cb=received)
        self.send(task, self._context, targets=[site])
        return task

    def take_back(self, task: Task) -> None:
        """Nobody waits for the task any more; a site that is at it hears so when it is done."""
        if task is not None and task.completion_status is None:
            self.cancel_task(task)
