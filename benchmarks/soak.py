"""A federation under fire: a real server and clients as processes, killed, cut, delayed and fed corrupt bytes.

The clients do not train: each adds a known number to every value, so that the adapter at the end has a closed form.
Nothing may be lost: every client is in every round, once, and the bytes are those of the closed form. Traffic runs
over mutual TLS through a proxy that delays, cuts, and flips bits.

    python benchmarks/soak.py --rounds 1000 --clients 4 --kills 60 --server-kills 8
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import select
import signal
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from fs_fedmllm import config as schema
from fs_fedmllm.aggregators import RunningMean
from fs_fedmllm.distributed.authority import create_authority, create_identity
from fs_fedmllm.distributed.protocol import state_digest
from fs_fedmllm.distributed.roles import update_handler
from fs_fedmllm.distributed.service import serve, take_part
from fs_fedmllm.models.export import adapter_bytes, read_adapter
from fs_fedmllm.rounds.client_update import ClientUpdate
from fs_fedmllm.rounds.federation import Federation
from fs_fedmllm.rounds.trainer import UpdateLog
from fs_fedmllm.runs.listener import Listener
from fs_fedmllm.runs.run_folder import RunFolder
from fs_fedmllm.runs.session import Session
from fs_fedmllm.scenarios.federated_data import FederatedData, prepare_data

LOG = UpdateLog(0.0, 0.0, 0.0, 0, 0, 0.0)


def take_turn(rows: int) -> Any:
    """A turn without training: every value grows by (client + round) / 4096."""

    def turn(client: int, round_index: int, state: Any, carried: Any) -> ClientUpdate:
        # What is carried counts the turns that the server used; it ends in the results through the increments.
        count = float(carried["count/turns"]) if carried else 0.0
        step = (client + round_index + count) / 4096
        grown = {name: tensor + step for name, tensor in state.items()}
        return ClientUpdate(client, rows, grown, LOG, {"count/turns": torch.tensor(count + 1)})

    return turn


def closed_form(federation: Federation, rounds: int) -> dict[str, Any]:
    """The adapter after rounds in which every client took part once."""
    assert federation.optimizer is not None
    state = federation.initial_state()
    server = federation.optimizer.init(state)
    for index in range(rounds):
        mean = RunningMean(state)
        for client, rows in sorted(federation.data.clients.items()):
            step = (client + index + float(index)) / 4096
            grown = {name: tensor + step for name, tensor in state.items()}
            mean.add(client, federation.server.weight(len(rows)), grown)
        state, server = federation.optimizer.step(state, server, mean.mean())
    return state


def configure(folder: Path, rounds: int, clients: int) -> schema.Config:
    """The configuration of the soak; the certificates are made in the folder."""
    certificates = folder / "certs"
    create_authority(certificates, "soak")
    create_identity(certificates, 0, ["127.0.0.1"])
    for client in range(1, clients + 1):
        create_identity(certificates, client)
    network = {"certificates": str(certificates), "join_timeout": 120, "turn_timeout": 120, "give_up": 120}
    return schema.from_mapping(
        {
            "federate": {"mode": "distributed", "client_num": clients, "total_round_num": rounds},
            "data": {"type": "digits_triage", "splitter": "fedmllm_aligned", "splitter_args": [{"alpha": 5.0}]},
            "eval": {"freq": rounds},
            "fedmllm": {
                "eval": {"zero_shot": False, "slices": "never", "limit": 4},
                "train": {"lr_horizon": rounds},
                "network": network,
            },
        }
    )


def at(config: schema.Config, port: int) -> schema.Config:
    """The configuration with the server at this port."""
    network = replace(config.fedmllm.network, address=f"127.0.0.1:{port}")
    return replace(config, fedmllm=replace(config.fedmllm, network=network))


def run_server(federation: Federation, config: schema.Config, folder: Path) -> None:
    """A server's process."""
    federation = replace(federation, config=config)
    session = Session(federation, RunFolder(folder / "server", config), Listener())
    serve(session, federation.data, linger=20.0)


def run_client(federation: Federation, config: schema.Config, folder: Path, client: int) -> None:
    """A client's process: the real client, its channel and its disk; only the training is replaced."""
    rows = federation.data.clients[client]
    own = FederatedData(federation.data.dataset, federation.data.template, {client: rows}, federation.data.manifest)
    home = folder / f"client_{client}"
    handlers = {"turn": update_handler(client, take_turn(len(rows)))}
    if take_part(config, client, own, federation, home, handlers) is not None:
        last = read_adapter(home / "adapter", federation.initial_state())
        (home / "final.json").write_text(json.dumps({"digest": state_digest(last)}))


class Forge:
    """Starts sites as forks of a process that has the model loaded, so that a restart takes no seconds."""

    def __init__(self, federation: Federation, config: schema.Config, folder: Path):
        asked, self._ask = os.pipe()
        self._told, tell = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            os.close(self._ask)
            signal.signal(signal.SIGCHLD, signal.SIG_IGN)
            self._work(federation, config, folder, asked, tell)
            os._exit(0)
        os.close(asked)
        os.close(tell)

    def start(self, client: int, port: int) -> int:
        """Start the server (0) or a client; its process id."""
        os.write(self._ask, f"{client} {port}\n".encode())
        return int(os.read(self._told, 64))

    def close(self) -> None:
        """End the process that forks; the sites go on."""
        os.close(self._ask)
        os.waitpid(self._pid, 0)

    @staticmethod
    def _work(federation: Federation, config: schema.Config, folder: Path, asked: int, tell: int) -> None:
        with os.fdopen(asked) as requests:
            for line in requests:
                client, port = map(int, line.split())
                pid = os.fork()
                if pid == 0:
                    code = 1
                    try:
                        log = os.open(folder / f"site_{client}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
                        os.dup2(log, 1)
                        os.dup2(log, 2)
                        if client:
                            run_client(federation, at(config, port), folder, client)
                        else:
                            run_server(federation, at(config, port), folder)
                        code = 0
                    except BaseException:
                        import traceback

                        traceback.print_exc()
                    finally:
                        os._exit(code)
                os.write(tell, str(pid).encode())


class Proxy:
    """TCP between clients and server that delays, cuts and flips bits, and counts it.

    Args:
        target: the server's port.
        seed: of the faults.
        rate: expected faults per second and connection, each kind.
    """

    def __init__(self, target: int, seed: int, rate: float):
        self.faults: Counter[str] = Counter()
        self._target = target
        self._rng = random.Random(seed)
        self._rate = rate
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._carry, args=(client,), daemon=True).start()

    def _carry(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._target)) as server:
            other = {client: server, server: client}
            last = time.monotonic()
            while True:
                ready, _, _ = select.select([client, server], [], [], 30)
                for source in ready:
                    data = bytearray(source.recv(1 << 16))
                    if not data:
                        return
                    now = time.monotonic()
                    chance, last = self._rate * min(now - last, 1.0), now
                    if self._rng.random() < chance:
                        self.faults["cut"] += 1
                        return
                    if self._rng.random() < chance:
                        self.faults["corrupt"] += 1
                        data[self._rng.randrange(len(data))] ^= 1 << self._rng.randrange(8)
                    if self._rng.random() < chance:
                        self.faults["delay"] += 1
                        time.sleep(self._rng.uniform(0.05, 0.3))
                    other[source].sendall(data)

    def close(self) -> None:
        """Take no more connections."""
        self._listener.close()


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def alive(pid: int) -> bool:
    """Whether the process runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def soak(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run it; the report."""
    started = time.monotonic()
    config = configure(folder, args.rounds, args.clients)
    federation = Federation.build(config, prepare_data(config))
    forge = Forge(federation, config, folder)  # before any thread is started here
    port = free_port()
    proxy = Proxy(port, args.seed, args.rate)
    rng = random.Random(args.seed + 1)
    pids = {client: forge.start(client, proxy.port if client else port) for client in range(args.clients + 1)}
    status = folder / "server" / "status.json"
    # Kills are spread over the rounds, so that a faster machine has as many.
    sites = [0] * args.server_kills + [rng.randrange(1, args.clients + 1) for _ in range(args.kills)]
    plan = sorted((rng.randrange(1, max(2, args.rounds - 5)), rng.random(), site) for site in sites)
    results = folder / "server" / "results.json"
    restart: list[tuple[float, int]] = []
    try:
        while not all((folder / f"client_{c}" / "final.json").is_file() for c in range(1, args.clients + 1)):
            if time.monotonic() - started > args.limit:
                raise SystemExit(f"the soak did not end in {args.limit} s; see {folder}")
            time.sleep(0.02)
            for site in set(pids) - {waiting for _, waiting in restart}:
                done_well = results if site == 0 else folder / f"client_{site}" / "final.json"
                if not alive(pids[site]) and not done_well.is_file():
                    raise SystemExit(f"site {site} ended by itself; see {folder}/site_{site}.log")
            now = time.monotonic()
            for item in [item for item in restart if item[0] <= now]:
                restart.remove(item)
                pids[item[1]] = forge.start(item[1], proxy.port if item[1] else port)
            with contextlib.suppress(OSError, ValueError):
                done = json.loads(status.read_text())["round"]
                down = {site for _, site in restart}
                if plan and done >= plan[0][0] and plan[0][2] not in down and not results.is_file():
                    site = plan.pop(0)[2]
                    if alive(pids[site]):
                        os.kill(pids[site], signal.SIGKILL)
                        proxy.faults["server killed" if site == 0 else "client killed"] += 1
                        restart.append((now + rng.uniform(0.0, 0.3), site))
    finally:
        forge.close()
        proxy.close()
        for pid in pids.values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
    found = json.loads(results.read_text())
    everybody = list(range(1, args.clients + 1))
    expected = closed_form(federation, args.rounds)
    final = read_adapter(folder / "server" / "adapter", federation.initial_state())
    lost = [index for index, clients in enumerate(found["participants"]) if clients != everybody]
    answers = Counter(
        (event["event"], event.get("reason", ""))
        for event in map(json.loads, (folder / "server" / "events.jsonl").read_text().splitlines())
    )
    return {
        "rounds": found["rounds"],
        "clients": args.clients,
        "updates": sum(map(len, found["participants"])),
        "rounds_with_somebody_missing": lost,
        "faults": dict(proxy.faults),
        "refused": {reason: count for (event, reason), count in answers.items() if event == "refused"},
        "rejoined": answers["rejoined", ""] + answers["joined", ""],
        "same_as_closed_form": state_digest(final) == state_digest(expected)
        and found["adapter_sha256"] == hashlib.sha256(adapter_bytes(expected)).hexdigest(),
        "clients_agree": all(
            json.loads((folder / f"client_{c}" / "final.json").read_text())["digest"] == state_digest(expected)
            for c in everybody
        ),
        "seconds": round(time.monotonic() - started, 1),
    }


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--kills", type=int, default=60, help="clients killed")
    parser.add_argument("--server-kills", type=int, default=8)
    parser.add_argument("--rate", type=float, default=0.3, help="faults of each kind per second and connection")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--limit", type=float, default=3600.0, help="seconds")
    parser.add_argument("--folder", type=Path, help="keep the run's files here")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        report = soak(args, args.folder or Path(temporary))
    print(json.dumps(report, indent=1))
    whole = report["same_as_closed_form"] and report["clients_agree"] and not report["rounds_with_somebody_missing"]
    return 0 if whole else 1


if __name__ == "__main__":
    sys.exit(main())
