"""``fs-fedmllm server`` and ``client`` as processes: the example over mutual TLS, and shares of one data set."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import pytest
import yaml
from forks import Forked, Forks
from short_runs import CONFIGS, REPOSITORY, SHORT
from waiting import free_port

from fs_fedmllm import config as schema
from fs_fedmllm.runs.simulation import run

EXAMPLE = REPOSITORY / "examples" / "hospitals"


def started_by(forks: Forks, environment: dict[str, str]) -> types.SimpleNamespace:
    """``subprocess`` for the example: its command lines and folders, in forks of an interpreter that is there."""

    def run(words: list[str], cwd: Path, check: bool) -> None:
        assert words[0] == sys.executable and check
        done = forks.run(words[1:], cwd, environment)
        assert done.returncode == 0, done.stderr

    def start(words: list[str], cwd: Path, stdout: BinaryIO, stderr: int, env: Mapping[str, str]) -> Forked:
        assert words[0] == sys.executable and stderr == subprocess.STDOUT and env is os.environ
        return forks.start(words[1:], cwd, environment, Path(stdout.name))

    return types.SimpleNamespace(run=run, Popen=start, STDOUT=subprocess.STDOUT)


@pytest.mark.parametrize("script", ["rehearsal.py", "rehearsal_nvflare.py"])
def test_a_rehearsal_says_how_it_is_called(script: str, tmp_path: Path) -> None:
    (tmp_path / "server").mkdir()
    for words, said in (((), "usage: "), ((str(tmp_path),), "is no empty folder; name another.")):
        done = subprocess.run([sys.executable, EXAMPLE / script, *words], capture_output=True, text=True, check=False)
        assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr


def test_the_hospitals_end_with_the_adapter_of_one_machine(forks, tmp_path: Path) -> None:
    """Each site's folder holds its own rows; the adapter is that of the embedded run, and no file has a key in it."""
    words = ["fedmllm.network.address", f"127.0.0.1:{free_port()}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = str(REPOSITORY)
    rehearsal = runpy.run_path(str(EXAMPLE / "rehearsal.py"))["main"]
    rehearsal.__globals__["subprocess"] = started_by(forks, environment)
    code = rehearsal(tmp_path / "sites", *words)
    logs = "\n".join(f"{path}: {path.read_text()[-1500:]}" for path in (tmp_path / "sites").glob("*/log.txt"))
    assert code == 0, logs
    server = tmp_path / "sites" / "server" / "runs" / "hospitals"
    results = json.loads((server / "results.json").read_text())
    embedded, _ = run(schema.load(EXAMPLE / "hospitals.yaml", ["outdir", str(tmp_path)]))
    assert results["adapter_sha256"] == embedded["adapter_sha256"]
    assert results["evaluations"] == embedded["evaluations"]
    assert results["manifest_sha256"] == embedded["manifest_sha256"]
    assert results["participants"] == [[1, 2, 3]] * 3
    size = results["adapter_bytes"]
    assert 3 * 6 * size < results["bytes_sent"] < 3 * 6 * size * 1.2
    assert not (server / "manifest.json").exists()  # who has which row is not the server's business
    for client in (1, 2, 3):
        home = tmp_path / "sites" / f"hospital_{client}" / "runs" / "hospitals" / f"client_{client}"
        assert (home / "adapter" / "adapter_model.safetensors").is_file()
        assert yaml.safe_load((home / "status.json").read_text())["doing"] == "finished"
    for path in (tmp_path / "sites").glob("*/runs/**/*"):
        if path.is_file():
            assert b"PRIVATE KEY" not in path.read_bytes()


def test_clients_of_the_whole_data_set_take_their_shares(forks, tmp_path: Path) -> None:
    """``data_idx`` on a data set that nobody dealt: the adapter of one machine, and without an id one paragraph."""
    words = [*SHORT, "federate.client_num", "2", "federate.sample_client_num", "2",
             "data.splitter_args", "[{alpha: 5.0, image_clients: 1, text_clients: 1}]"]  # fmt: skip
    network = ["fedmllm.network.address", f"127.0.0.1:{free_port()}", "fedmllm.network.insecure", "True"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = str(REPOSITORY)

    def site(role: str, *more: str) -> Forked:
        command = ["-m", "fs_fedmllm", role, CONFIGS / "cross_i3t7.yaml", *words, *network, *more]
        home = tmp_path / "-".join([role, *more])
        home.mkdir()
        return forks.start(command, home, environment, home / "log.txt")

    sites = [site("server"), site("client", "--id", "1"), site("client", "--id", "2")]
    nobody = site("client")
    codes = [process.wait() for process in (*sites, nobody)]
    logs = "\n".join(f"{path}: {path.read_text()[-1500:]}" for path in tmp_path.glob("*/log.txt"))
    assert codes == [0, 0, 0, 2], logs
    refused = (tmp_path / "client" / "log.txt").read_text()
    assert "not clear which client this is" in refused and "Traceback" not in refused
    (results,) = (tmp_path / "server").rglob("results.json")
    embedded, _ = run(schema.load(CONFIGS / "cross_i3t7.yaml", [*words, "outdir", str(tmp_path / "one")]))
    found = json.loads(results.read_text())
    assert found["adapter_sha256"] == embedded["adapter_sha256"]
    assert found["manifest_sha256"] == embedded["manifest_sha256"]
