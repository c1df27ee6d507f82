"""A site's own process: what goes wrong there stays there, and one that dies is started again."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from short_runs import CONFIGS, SHORT

from fs_fedmllm import config as schema
from fs_fedmllm.distributed.contracts import ANY_TENSORS
from fs_fedmllm.distributed.messages import Message
from fs_fedmllm.errors import StorageError

pytest.importorskip("nvflare", reason="NOT RUN: the extra nvflare is not installed")

from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import FLContextKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal

from fs_fedmllm.hosts.nvflare import executor
from fs_fedmllm.hosts.nvflare.payload import unpack
from fs_fedmllm.hosts.nvflare.site_process import SiteDied, SiteProcess, spawn
from fs_fedmllm.hosts.nvflare.told import last_told


def test_a_site_that_cannot_begin_says_so_without_its_secrets_and_one_that_dies_is_named(tmp_path: Path) -> None:
    words = [*SHORT, "federate.mode", "distributed", "outdir", str(tmp_path), "expname", "run"]
    config = schema.load(CONFIGS / "cross_i3t7.yaml", [*words, "data.type", "slake", "data.root", "/secret/ward"])
    spawned = spawn()
    process = SiteProcess(schema.to_mapping(config), tmp_path, "site-1", {"site-1": [1]}, "label", spawned)
    try:
        for _ in range(2):  # whatever is asked, and as often as it is
            answer = process.exchange(Message("join"))
            assert answer.kind == "failed"
            assert answer.header["failed"] == "data.root is not a folder there"
        assert "/secret/ward" in (tmp_path / "run" / "client_1" / "run.log").read_text()
        assert "/secret/ward" in last_told(tmp_path)["error"]  # for the site's own doctor
        assert process._process is spawned.process  # the one that was there already
        os.kill(process._process.pid, signal.SIGKILL)
        with pytest.raises(SiteDied, match="signal 9, out of memory"):
            process.exchange(Message("join"))
        with pytest.raises(SiteDied, match="the job was aborted"):  # started anew, and nobody waits for it
            process.exchange(Message("join"), lambda: True)
        assert process._process is None and spawned.process.returncode == -signal.SIGKILL
    finally:
        process.close(at_once=True)


@pytest.mark.parametrize("error", [StorageError("/ward is full"), PermissionError("/ward")])
def test_a_site_whose_disk_takes_nothing_tells_the_server_and_ends_no_job(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise error

    monkeypatch.setattr(executor, "tell", fails)
    context = FLContext()
    context.set_prop(FLContextKey.WORKSPACE_ROOT, str(tmp_path))
    site = executor.FedMLLMExecutor({"site-1": [1]})
    spawned = site._spawned
    site.handle_event(EventType.START_RUN, context)
    answer = unpack(site.execute("join", Shareable(), context, Signal()), lambda kind, header: ANY_TENSORS)
    says = "it cannot write its files" if isinstance(error, StorageError) else "it has met a PermissionError"
    assert (answer.kind, answer.header["failed"]) == ("failed", says)
    assert spawned is not None and spawned.process.returncode is not None  # a site that cannot begin has no process
