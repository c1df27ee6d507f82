"""A site's own process: what goes wrong there stays there, and one that dies is started again."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from short_runs import CONFIGS, SHORT

from fs_fedmllm import config as schema
from fs_fedmllm.distributed.messages import Message

pytest.importorskip("nvflare", reason="NOT RUN: the extra nvflare is not installed")

from fs_fedmllm.hosts.nvflare.site_process import SiteDied, SiteProcess
from fs_fedmllm.hosts.nvflare.told import last_told


def test_a_site_that_cannot_begin_says_so_without_its_secrets_and_one_that_dies_is_named(tmp_path: Path) -> None:
    words = [*SHORT, "federate.mode", "distributed", "outdir", str(tmp_path), "expname", "run"]
    config = schema.load(CONFIGS / "cross_i3t7.yaml", [*words, "data.type", "slake", "data.root", "/secret/ward"])
    process = SiteProcess(schema.to_mapping(config), tmp_path, "site-1", {"site-1": [1]}, "label")
    try:
        for _ in range(2):  # whatever is asked, and as often as it is
            answer = process.exchange(Message("join"))
            assert answer.kind == "failed"
            assert answer.header["failed"] == "data.root is not a folder there"
        assert "/secret/ward" in (tmp_path / "run" / "client_1" / "run.log").read_text()
        assert "/secret/ward" in last_told(tmp_path)["error"]  # for the site's own doctor
        assert process._process is not None
        os.kill(process._process.pid, signal.SIGKILL)
        with pytest.raises(SiteDied, match="signal 9, out of memory"):
            process.exchange(Message("join"))
        with pytest.raises(SiteDied, match="the job was aborted"):  # started anew, and nobody waits for it
            process.exchange(Message("join"), lambda: True)
        assert process._process is None
    finally:
        process.close(at_once=True)
