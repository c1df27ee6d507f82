"""Two sites and a server as processes: the server is killed, then stopped, and started again.

The sites run under an audit hook (``watched_site.py``), so the same run shows what they read.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from forks import Forked, Forks
from short_runs import CONFIGS, REPOSITORY, SHORT
from waiting import LONG, free_port, wait_until

from fs_fedmllm import config as schema
from fs_fedmllm.cli import main
from fs_fedmllm.runs.simulation import run

grpc = pytest.importorskip("grpc")

CONFIG = CONFIGS / "aligned_a50.yaml"
WORDS = [
    *SHORT, "federate.total_round_num", "6", "federate.client_num", "2", "federate.sample_client_num", "2",
    "eval.freq", "6", "fedmllm.eval.limit", "4", "train.local_update_steps", "1", "expname", "ward",
]  # fmt: skip
SITES = (1, 2)


@dataclass
class Ward:
    """The processes of one federation, by client; the server is 0.

    Attributes:
        root: of everything; the split is in ``dealt``.
        words: overrides, the same on every site.
        forks: what starts processes.
        running: processes.
        codes: exit codes, by what came before them.
        stopped: the server's status after it was asked to stop.
        kept: its checkpoint's figures then.
        answer: gRPC's word for what a call of FederatedScope's own service was answered while the server ran.
    """

    root: Path
    words: list[str]
    forks: Forks
    running: dict[int, Forked] = field(default_factory=dict)
    codes: dict[str, int] = field(default_factory=dict)
    stopped: dict[str, Any] = field(default_factory=dict)
    kept: dict[str, Any] = field(default_factory=dict)
    answer: str = ""

    def folder(self, client: int) -> Path:
        """A site's run folder."""
        return self.root / "runs" / "ward" / (f"client_{client}" if client else "")

    def start(self, client: int) -> None:
        """The same command every time."""
        own = self.root / "dealt" / (f"client_{client}" if client else "server")
        program = REPOSITORY / "tests/distributed/watched_site.py"
        watched = [program, own.parent, own, self.root / f"opened_{client}.txt"]
        role = ["client" if client else "server"]
        self.running[client] = self.forks.start(
            [*watched, *role, CONFIG, *self.words, "--data", own], self.root,
            {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}, self.root / f"log_{client}.txt",
        )  # fmt: skip

    def events(self, client: int, name: str) -> list[dict[str, Any]]:
        """A site's events of a kind."""
        path = self.folder(client) / "events.jsonl"
        whole = path.read_text().rpartition("\n")[0].splitlines() if path.is_file() else []
        return [event for event in map(json.loads, whole) if event["event"] == name]

    def until(self, happened: Callable[[], bool]) -> None:
        """Wait until it has."""

        def ended() -> dict[int, int]:
            codes = {client: process.poll() for client, process in self.running.items()}
            return {client: code for client, code in codes.items() if code is not None}

        wait_until(lambda: happened() or ended(), says=self.logs)
        assert happened(), f"exit codes {ended()}\n{self.logs()}"

    def hold(self) -> None:
        """After a further round, hold site 2; the server then stands in a round with one of its two answers."""
        done = len(self.events(0, "round"))
        self.until(lambda: len(self.events(0, "round")) > done)
        self.running[2].send_signal(signal.SIGSTOP)
        self.until(lambda: self._answered(1) > self._answered(2))
        # Told so itself, it asks for more at once: the server has somebody to tell that it goes away.
        self.until(lambda: self._delivered(1) == self._answered(1))
        assert not (self.folder(0) / "results.json").exists()

    def _answered(self, client: int) -> int:
        return max((event["round"] for event in self.events(0, "answer") if event["client"] == client), default=-1)

    def _delivered(self, client: int) -> int:
        return max((event["round"] for event in self.events(client, "delivered")), default=-1)

    def go_on(self) -> None:
        """Start the server again, and let site 2 go on."""
        self.start(0)
        self.running[2].send_signal(signal.SIGCONT)

    def end(self, client: int) -> int:
        """A process's exit code once it has ended."""
        return self.running.pop(client).wait(LONG)

    def logs(self) -> str:
        """The end of every log."""
        return "\n".join(f"{path.name}: {path.read_text()[-1500:]}" for path in sorted(self.root.glob("log_*.txt")))


def stock_call(address: str) -> str:
    """What a call of FederatedScope's own service (plain text, pickled content) is answered: gRPC's status."""
    with grpc.insecure_channel(address) as channel:
        try:
            channel.unary_unary("/gRPCComServeFunc/sendMessage")(b"", timeout=LONG)
        except grpc.RpcError as error:
            return str(error.code().name)
    return "OK"


@pytest.fixture(scope="module")
def ward(forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ward]:
    """A federation that has ended, with what happened to its server on the way."""
    root = tmp_path_factory.mktemp("ward")
    address = f"127.0.0.1:{free_port()}"
    network = ["fedmllm.network.address", address, "fedmllm.network.insecure", "True"]
    made = Ward(root, [*WORDS, *network, "outdir", str(root / "runs")], forks)
    split = ["--out", str(root / "dealt"), "--per-client-folders"]
    assert main(["data", "split", str(CONFIG), *split, *WORDS]) == 0
    try:
        for client in (0, *SITES):
            made.start(client)
        made.hold()
        made.answer = stock_call(address)
        made.running[0].kill()
        made.codes = {"killed": made.end(0)}
        made.go_on()
        made.hold()
        made.running[0].terminate()
        made.codes["asked to stop"] = made.end(0)
        made.stopped = json.loads((made.folder(0) / "status.json").read_text())
        made.kept = json.loads((made.folder(0) / "checkpoint" / "state.json").read_text())
        made.go_on()
        made.codes |= {f"{client}": made.end(client) for client in (0, *SITES)}
        yield made
    finally:
        for process in made.running.values():
            process.kill()
            process.wait(LONG)


def test_a_server_killed_and_then_stopped_ends_with_the_bytes_of_one_machine(ward: Ward, tmp_path: Path) -> None:
    results = json.loads((ward.folder(0) / "results.json").read_text())
    embedded, _ = run(schema.load(CONFIG, [*WORDS, "outdir", str(tmp_path)]))
    assert results["adapter_sha256"] == embedded["adapter_sha256"]
    assert results["evaluations"] == embedded["evaluations"]
    assert results["participants"] == [[1, 2]] * 6 and not results["refused"]
    assert ward.codes["killed"] == -signal.SIGKILL
    first, second, third = (event["round"] for event in ward.events(0, "started"))
    assert first == 0 < second < third < 6  # each went on where the one before it stood
    for client in SITES:
        told = [event["adapter_sha256"] for event in ward.events(client, "finished")]
        assert told == [embedded["adapter_sha256"]] and ward.codes[str(client)] == 0


def test_a_server_that_is_asked_to_stop_keeps_its_state_and_tells_its_sites(ward: Ward) -> None:
    assert ward.codes["asked to stop"] == 0, ward.logs()
    assert ward.stopped["doing"] == "stopped"
    assert ward.kept["round"] == ward.stopped["round"] == ward.events(0, "stopped")[0]["round"]
    said = f"stopped after round {ward.kept['round']}; the same command resumes the run"
    assert said in (ward.root / "log_0.txt").read_text()
    assert len(ward.events(1, "server stops")) == 1  # site 2 was held, and found out by itself
    assert not list(ward.root.glob("dealt/**/*.tmp"))


def test_federatedscopes_own_service_is_nowhere(ward: Ward) -> None:
    assert ward.answer == "UNIMPLEMENTED"


def test_every_site_has_its_log(ward: Ward) -> None:
    """What the terminal does not show, and every start of the server in one file."""
    server = (ward.folder(0) / "run.log").read_text()
    assert server.count(" INFO fs_fedmllm.distributed: Listening on ") == 3
    assert server.count(" WARNING ") >= 2 and "Resuming after round" in server and "SIGTERM" in server
    told = (ward.root / "log_0.txt").read_text()
    assert "Resuming after round" in told and "Listening on" not in told
    for client in SITES:
        assert f"client {client}: finished" in (ward.folder(client) / "run.log").read_text()
    assert not {path.name for path in (ward.root / "runs").rglob("*")} & {"exp_print.log", "config.yaml"}


def test_a_site_reads_nothing_but_its_own_folder(ward: Ward) -> None:
    """Whatever Python opens or lists below the folder that holds every site's: a stranger's path would raise."""
    for client in (0, *SITES):
        own = ward.root / "dealt" / (f"client_{client}" if client else "server")
        opened = {Path(line) for line in (ward.root / f"opened_{client}.txt").read_text().splitlines()}
        read = {path.relative_to(own).parts[0] for path in opened if path != own}  # raises for one outside
        assert read >= ({"client.json", "rows.jsonl", "images"} if client else {"server.json", "val.jsonl"})


def test_the_watch_refuses_and_records_what_is_not_a_sites_own(tmp_path: Path) -> None:
    for name in ("own", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "rows").write_text("a row")
    program = (
        "import os, sys; from watched_site import watch; root, log = sys.argv[1:]; watch(root, root + '/own', log)\n"
        "print(open(root + '/own/rows').read())\n"
        "for look in (lambda: open(root + '/own/../other/rows'), lambda: os.listdir(root + '/other')):\n"
        "    try: look()\n"
        "    except PermissionError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path, tmp_path.parent / f"{tmp_path.name}.log"],
        cwd=Path(__file__).parent, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.startswith("a row") and done.stdout.count("is another site's") == 2
    lines = (tmp_path.parent / f"{tmp_path.name}.log").read_text().splitlines()
    assert [line.removeprefix(f"{tmp_path}/") for line in lines] == ["own/rows", "other/rows", "other"]
