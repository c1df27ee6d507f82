"""The federation of the hospitals' example in a test: provisioned, mutual TLS, every daemon a process of its own."""

from __future__ import annotations

import json
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from short_runs import REPOSITORY
from waiting import LONG, free_port, wait_until

from fs_fedmllm.hosts.nvflare import admin

EXAMPLE = runpy.run_path(str(REPOSITORY / "examples" / "hospitals" / "rehearsal_nvflare.py"))
HOSPITALS = REPOSITORY / "examples" / "hospitals" / "hospitals.yaml"
SERVER, SITES = EXAMPLE["SERVER"], EXAMPLE["SITES"]
#: What a whole job may take on a busy machine, in seconds.
JOB = 8 * LONG


class Hospitals:
    """Startup kits, and the daemons that run from them.

    Args:
        root: folder.
        kits: startup kits by name.
        daemons: by name.
    """

    def __init__(self, root: Path, kits: dict[str, Path], daemons: dict[str, subprocess.Popen[bytes]]):
        self.root = root
        self.kits = kits
        self.daemons = daemons
        self.admin = kits[EXAMPLE["ADMIN"]]

    def folder(self, run: str) -> Path:
        """The server's folder of a run."""
        return self.kits[SERVER] / "exp" / run

    def results(self, run: str) -> dict[str, Any]:
        """How a run has ended."""
        found: dict[str, Any] = json.loads((self.folder(run) / "results.json").read_text())
        return found

    def rounds(self, run: str) -> int:
        """How many rounds of a run are done; -1 before it has begun."""
        try:
            return int(json.loads((self.folder(run) / "status.json").read_text())["round"])
        except (OSError, ValueError):
            return -1

    def job(self, name: str, *words: str, sites: Sequence[str] = tuple(SITES)) -> Path:
        """Make a job's folder."""
        made = [sys.executable, "-m", "fs_fedmllm", "nvflare", "job", str(HOSPITALS), *words, "expname", name]
        out = self.root / "jobs" / name
        subprocess.run([*made, "--out", str(out), "--sites", ",".join(sites)], check=True, stdout=subprocess.PIPE)
        return out

    def nvflare(self, *words: str) -> str:
        """NVFlare's own command, as the admin."""
        command = [sys.executable, "-m", "nvflare.cli", *words, "--startup-kit", str(self.admin)]
        done = subprocess.run(command, text=True, capture_output=True, timeout=LONG, cwd=self.root, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def processes(self, name: str) -> list[int]:
        """The process that runs a job at a site, or at the server: one, or none."""
        return list(_processes("runner_process" if name == SERVER else "worker_process", str(self.kits[name])))

    def kill_daemon(self, name: str) -> None:
        """A machine is gone: its daemon and all that it has started, at once."""
        EXAMPLE["with_all"](self.daemons[name], signal.SIGKILL)
        self.kill_job(name)
        self.daemons[name].wait(LONG)
        wait_until(lambda: not self.processes(name))

    def kill_job(self, name: str) -> None:
        """End a site's process of a job, which has a session of its own, with all that it has started."""
        for process in self.processes(name):
            for one in (*children(process), process):
                with suppress(ProcessLookupError):
                    os.kill(one, signal.SIGKILL)

    def start(self, name: str) -> None:
        """The machine is back."""
        self.daemons[name] = EXAMPLE["start"](self.kits[name])


@contextmanager
def hospitals(root: Path, *words: str) -> Iterator[Hospitals]:
    """The federation, for the length of a block; all its sites are connected."""
    port = free_port()
    kits = EXAMPLE["provision"](root, port, *words)
    with EXAMPLE["running"](kits, port) as daemons:
        made = Hospitals(root, kits, daemons)
        try:
            with admin.session(made.admin) as opened:
                wait_until(lambda: len(opened.get_connected_client_list()) == len(SITES), pause=0.5)
            yield made
        finally:
            for name in (SERVER, *SITES):  # one that cannot reach its server outlives its daemon by far
                made.kill_job(name)


def children(parent: int) -> Sequence[int]:
    """Processes that a process has started."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if int((folder / "stat").read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def _processes(*words: str) -> Iterator[int]:
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if all(word in line for word in words):
            yield int(folder.name)
