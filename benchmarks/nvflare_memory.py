"""Memory of NVFlare's server by number of sites: our controller and dispatch, and sites that answer at once.

    python benchmarks/nvflare_memory.py --sites 2 4 8

Nothing is trained: a site gives back what it was sent, under the header of an update. The server is the real one, with
an adapter of some 100 MB on the embedded model. Whenever it hands something out it writes down its resident memory and
threads, and what its allocator holds (``mallinfo2``): bytes in use, bytes that were freed and are kept for later, and
bytes in maps of their own.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from nvflare.apis.controller_spec import Task
from nvflare.apis.fl_constant import FLContextKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal

from fs_fedmllm import config as schema
from fs_fedmllm.config.host_reading import put
from fs_fedmllm.distributed.contracts import ANY_TENSORS
from fs_fedmllm.distributed.messages import Message
from fs_fedmllm.distributed.roles import client_data, introduction
from fs_fedmllm.hosts.nvflare.controller import FedMLLMController
from fs_fedmllm.hosts.nvflare.executor import FedMLLMExecutor
from fs_fedmllm.hosts.nvflare.job import write_job
from fs_fedmllm.hosts.nvflare.payload import pack, unpack
from fs_fedmllm.hosts.nvflare.policy import ALLOW_LIST, CONTROLLER, EXECUTOR, resources
from fs_fedmllm.hosts.nvflare.settings import LOCAL, SITE_FILE, site_config, without_reserved
from fs_fedmllm.hosts.nvflare.sites import dealt

REPOSITORY = Path(__file__).resolve().parent.parent
HERE = "benchmarks.nvflare_memory"
MIB = 2**20
#: An adapter of 103 MB on the embedded model.
RANK = 2800


class Allocator(ctypes.Structure):
    """glibc's ``struct mallinfo2``."""

    _fields_ = [(name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks",
                                                     "fsmblks", "uordblks", "fordblks", "keepcost")]  # fmt: skip


def allocator() -> dict[str, float]:
    """What this process's allocator holds, in MiB."""
    info = ctypes.CDLL("libc.so.6").mallinfo2
    info.restype = Allocator
    found = info()
    return {"in use": found.uordblks / MIB, "kept": found.fordblks / MIB, "own maps": found.hblkhd / MIB}


def process() -> dict[str, int]:
    """Resident memory of this process now and at most, in MiB, and its threads."""
    lines = [line.split() for line in Path("/proc/self/status").read_text().splitlines()]
    found = {line[0]: int(line[1]) for line in lines if line[0] in ("VmRSS:", "VmHWM:", "Threads:")}
    return {"resident": found["VmRSS:"] >> 10, "peak": found["VmHWM:"] >> 10, "threads": found["Threads:"]}


class WatchedController(FedMLLMController):
    """The controller; writes down what its process holds whenever it hands something out."""

    def hand_out(
        self, site: str, message: Message, back: Callable[[str, Any], None], fetched: Callable[[], None]
    ) -> Task:
        """As the controller's."""
        with open(os.environ["WATCHED"], "a", encoding="utf-8") as out:
            said = {"round": message.header.get("round"), "kind": message.kind, **process(), **allocator()}
            out.write(json.dumps(said) + "\n")
        return super().hand_out(site, message, back, fetched)


class Echo(FedMLLMExecutor):
    """A site that answers with what it was sent."""

    def _start(self, fl_ctx: FLContext, workspace: Path) -> None:
        if self._spawned is not None:  # nothing is trained
            self._spawned.close()
            self._spawned = None
        self._config = site_config(Path(fl_ctx.get_prop(FLContextKey.APP_ROOT)) / "config", workspace)
        clients = self._sites[fl_ctx.get_identity_name()]
        self._own = {client: client_data(self._config, client)[1] for client in clients}

    def execute(self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Shareable:
        """Answer a task."""
        message = unpack(shareable, lambda kind, header: ANY_TENSORS)
        if message.kind == "join":
            said = {str(c): introduction(self._config, c, data) for c, data in self._own.items()}
            return pack(Message("introduced", {"clients": said}))
        if message.kind == "finish":
            return pack(Message("leave", {}))
        client = message.header["client"]
        log = {"loss": 1.0, "penalty": 0.0, "grad_norm": 1.0, "steps": 1, "rows": 1, "seconds": 0.0}
        place = {name: message.header[name] for name in ("phase", "round", "start", "client")}
        header = {**place, "rows": len(self._own[client].clients[client]), "log": log}
        return pack(Message("answer", header, message.tensors))


def measure(sites: int, rounds: int, rank: int) -> list[dict[str, Any]]:
    """A run; what its server said."""
    words = ["federate.client_num", sites, "federate.sample_client_num", sites, "federate.total_round_num", rounds,
             "eval.freq", 1000, "fedmllm.eval.zero_shot", "False", "fedmllm.eval.slices", "never",
             "fedmllm.eval.limit", 1, "fedmllm.workers", 1, "model.fedmllm.lora.r", rank,
             "data.splitter_args", "[{alpha: 5.0}]", "expname", "memory"]  # fmt: skip
    path = REPOSITORY / "configs" / "aligned_a50.yaml"
    raw = schema.given_mapping(path, [str(word) for word in words])
    put(raw, "federate.mode", "distributed")
    config = schema.from_mapping(raw)
    raw, _ = without_reserved(raw)
    names = [f"site-{index}" for index in range(1, sites + 1)]
    with tempfile.TemporaryDirectory(prefix="nvflare-memory-") as name:
        root = Path(name)
        write_job(root / "job", config, raw, dealt(names, sites), path.stem)
        for role, ours, watched in (("server", CONTROLLER, "WatchedController"), ("client", EXECUTOR, "Echo")):
            file = root / "job" / "app" / "config" / f"config_fed_{role}.json"
            file.write_text(file.read_text().replace(ours, f"{HERE}.{watched}"))
        (root / "workspace" / LOCAL).mkdir(parents=True)
        own = {"outdir": str(root / "exp")}
        (root / "workspace" / LOCAL / SITE_FILE).write_text(yaml.safe_dump(own))
        policy = resources()
        policy[ALLOW_LIST] += [f"{HERE}.WatchedController", f"{HERE}.Echo"]
        (root / "workspace" / LOCAL / "resources.json").write_text(json.dumps(policy))
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "WATCHED": str(root / "watched.jsonl")}
        command = [sys.executable, "-m", "nvflare.private.fed.app.simulator.simulator", str(root / "job")]
        command += ["-w", str(root / "workspace"), "-c", ",".join(names), "-t", str(sites)]
        with (root / "said.txt").open("wb") as said:
            subprocess.run(command, cwd=root, stdout=said, stderr=said, env=environment, check=False)
        if not (root / "exp" / "memory" / "results.json").is_file():
            print((root / "said.txt").read_text()[-4000:], file=sys.stderr)
            raise SystemExit("the run gave no results")
        return [json.loads(line) for line in (root / "watched.jsonl").read_text().splitlines()]


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sites", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--rank", type=int, default=RANK)
    args = parser.parse_args()
    print("| sites | peak, MiB | threads | seconds | resident at the tasks of each round | in use | kept | own maps |")
    print("| ---: | ---: | ---: | ---: | --- | --- | --- | --- |", flush=True)
    for sites in args.sites:
        started = time.monotonic()
        said = measure(sites, args.rounds, args.rank)
        firsts = list({line["round"]: line for line in reversed(said) if line["kind"] == "task"}.values())[::-1]
        last = [line for line in said if line["kind"] == "finish"][:1]
        cells = [", ".join(f"{line[name]:.0f}" for line in [*firsts, *last])
                 for name in ("resident", "in use", "kept", "own maps")]  # fmt: skip
        peak, threads = (max(line[name] for line in said) for name in ("peak", "threads"))
        print(f"| {sites} | {peak} | {threads} | {time.monotonic() - started:.0f} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
