"""Our transport beside FederatedScope's own gRPC manager and NVFlare's cells, in one run on loopback.

    python benchmarks/transport.py                  # the table, into transport.md; needs FEDERATEDSCOPE_HOME
    python benchmarks/transport.py large --gib 2.2  # one large adapter through ours: seconds and peak memory

The server is a process of its own. Kinds of transport alternate, so that other work on the machine falls on all of
them; medians and ratios of medians are reported. FederatedScope's messages go through its managers unchanged, and its
tensors are unpickled as its aggregator does it (``param2tensor``), because only then can they be used. NVFlare's are
payloads of ``hosts/nvflare`` over its cells, under the scheme of a provisioned server: without its task polling, which
comes on top.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import save

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY / "tests" / "distributed"))

from recording_proxy import RecordingProxy  # noqa: E402

KINDS = ("fs", "nvflare", "plain", "tls")
NAMES = {
    "fs": "FederatedScope",
    "nvflare": "NVFlare, mutual TLS",
    "plain": "ours, no TLS",
    "tls": "ours, mutual TLS",
}
HOST = "127.0.0.1"
#: What a small message carries; FederatedScope cannot send an empty mapping.
NOTHING = {"n": torch.zeros(1)}


def adapter(parameters: int, tensors: int = 56) -> dict[str, torch.Tensor]:
    """Float32 tensors with LoRA's names, random values (constant ones would flatter every codec)."""
    generator = torch.Generator().manual_seed(0)
    each = parameters // tensors
    return {f"layers.{i}.q_proj.lora_A.weight": torch.randn(each, generator=generator) for i in range(tensors)}


# --- FederatedScope -------------------------------------------------------------------------------------------------


def host_manager(port: int, peer: int, peer_port: int) -> Any:
    """FederatedScope's manager; it listens on its own port and sends to its peer's."""
    from fs_fedmllm.hosts.federatedscope import compat
    from fs_fedmllm.hosts.federatedscope.checkout import find_federatedscope

    checkout = find_federatedscope()
    if checkout is None:
        raise SystemExit("Set FEDERATEDSCOPE_HOME to a checkout of FederatedScope.")
    sys.path.insert(0, str(checkout))
    compat.apply_fixes()
    from federatedscope.core.communication import gRPCCommManager

    options = SimpleNamespace(
        grpc_max_send_message_length=300 << 20,
        grpc_max_receive_message_length=300 << 20,
        grpc_enable_http_proxy=False,
        grpc_compression="nocompression",
    )
    manager = gRPCCommManager(host=HOST, port=str(port), client_num=2, cfg=options)
    manager.add_neighbors(peer, {"host": HOST, "port": peer_port})
    return manager


def host_message(kind: str, sender: int, receiver: int, content: Any) -> Any:
    from federatedscope.core.message import Message

    return Message(msg_type=kind, sender=sender, receiver=[receiver], state=3, content=content)


def host_tensors(content: Any) -> dict[str, torch.Tensor]:
    from federatedscope.core.auxiliaries.utils import param2tensor

    return {name: param2tensor(value) for name, value in content[1].items()}


def serve_host(port: int, peer_port: int) -> None:
    manager = host_manager(port, 1, peer_port)
    print("ready", flush=True)
    while (message := manager.receive()).msg_type != "stop":
        tensors = host_tensors(message.content)
        answer = tensors if message.content[0] == 1 else dict(NOTHING)
        manager.send(host_message("model_para", 0, 1, [5, answer]))


class HostClient:
    """A client of FederatedScope's kind: its own server, and a new channel for every message."""

    def __init__(self, port: int, peer_port: int) -> None:
        self._manager = host_manager(port, 0, peer_port)

    def connect(self, port: int) -> None:
        self._manager.add_neighbors(0, {"host": HOST, "port": port})

    def exchange(self, tensors: dict[str, torch.Tensor], back: bool, kind: str = "model_para") -> None:
        self._manager.send(host_message(kind, 1, 0, [int(back), dict(tensors)]))
        host_tensors(self._manager.receive().content)

    def close(self) -> None:
        self._manager.send(host_message("stop", 1, 0, [0, dict(NOTHING)]))
        self._manager.grpc_server.stop(0).wait()


# --- ours -----------------------------------------------------------------------------------------------------------


def identity(kind: str, folder: str, client: int) -> Any:
    from fs_fedmllm.distributed.identity import Identity

    return Identity.plaintext(client) if kind == "plain" else Identity.load(Path(folder), client)


def serve_ours(kind: str, folder: str, port: int) -> None:
    from fs_fedmllm.distributed.messages import Message
    from fs_fedmllm.distributed.transport import TransportServer

    def handle(peer: Any, message: Message, exchange: Any) -> Message:
        return Message("ok", {"round": 3}, message.tensors if message.header["back"] else NOTHING)

    with TransportServer(f"{HOST}:{port}", handle, identity(kind, folder, 0)):
        print("ready", flush=True)
        sys.stdin.read()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, flush=True)


class OurClient:
    def __init__(self, kind: str, folder: str, port: int) -> None:
        self._identity = identity(kind, folder, 1)
        self.connect(port, first=True)

    def connect(self, port: int, *, first: bool = False) -> None:
        from fs_fedmllm.distributed.transport_client import TransportClient

        if not first:
            self.close()
        self._connection = TransportClient(f"{HOST}:{port}", self._identity)

    def exchange(self, tensors: dict[str, torch.Tensor], back: bool, kind: str = "model_para") -> None:
        from fs_fedmllm.distributed.messages import Message

        self._connection.exchange(Message(kind, {"round": 3, "client": 1, "back": back}, tensors), 600)

    def close(self) -> None:
        self._connection.close()


# --- NVFlare ---------------------------------------------------------------------------------------------------------


def cell(fqcn: str, folder: str, port: int) -> Any:
    """A cell of NVFlare's with our certificates."""
    import logging

    from nvflare.fuel.f3.cellnet.cell import Cell
    from nvflare.fuel.f3.drivers.driver_params import DriverParams
    from nvflare.private.fed.utils.fed_utils import nvflare_fobs_initialize

    from fs_fedmllm.hosts.nvflare.payload import prepare

    logging.getLogger().setLevel(logging.ERROR)
    nvflare_fobs_initialize()
    prepare()
    name = "server" if fqcn == "server" else "client-1"
    role = "SERVER" if fqcn == "server" else "CLIENT"
    credentials = {
        DriverParams.CA_CERT.value: f"{folder}/ca.crt",
        getattr(DriverParams, f"{role}_CERT").value: f"{folder}/{name}.crt",
        getattr(DriverParams, f"{role}_KEY").value: f"{folder}/{name}.key",
    }
    made = Cell(
        fqcn=fqcn,
        root_url=f"http://{HOST}:{port}",
        secure=True,
        credentials=credentials,
        create_internal_listener=False,
    )
    made.start()
    return made


def serve_nvflare(folder: str, port: int) -> None:
    from nvflare.fuel.f3.cellnet.defs import ReturnCode
    from nvflare.fuel.f3.cellnet.utils import make_reply
    from nvflare.private.defs import CellChannel

    from fs_fedmllm.distributed.contracts import ANY_TENSORS
    from fs_fedmllm.distributed.messages import Message
    from fs_fedmllm.hosts.nvflare.payload import pack, unpack

    def handle(request: Any) -> Any:
        message = unpack(request.payload, lambda kind, header: ANY_TENSORS)
        answer = Message("ok", {"round": 3}, message.tensors if message.header["back"] else NOTHING)
        return make_reply(ReturnCode.OK, "", pack(answer))

    made = cell("server", folder, port)
    made.register_request_cb(channel=CellChannel.AUX_COMMUNICATION, topic="bench", cb=handle)
    print("ready", flush=True)
    sys.stdin.read()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, flush=True)
    os._exit(0)


JOBS = itertools.count(1)


class NVFlareClient:
    def __init__(self, folder: str, port: int) -> None:
        self._folder = folder
        self._cell: Any = None
        self.connect(port)

    def connect(self, port: int) -> None:
        self.close()
        self._cell = cell(f"client-1.job-{next(JOBS)}", self._folder, port)  # a process has a cell's name once
        until = time.monotonic() + 60
        while not self._cell.is_cell_connected("server"):
            if time.monotonic() > until:
                raise SystemExit("NVFlare's cells do not connect.")
            time.sleep(0.1)

    def exchange(self, tensors: dict[str, torch.Tensor], back: bool, kind: str = "model_para") -> None:
        from nvflare.fuel.f3.cellnet.core_cell import Message as CellMessage
        from nvflare.private.defs import CellChannel

        from fs_fedmllm.distributed.contracts import ANY_TENSORS
        from fs_fedmllm.distributed.messages import Message
        from fs_fedmllm.hosts.nvflare.payload import pack, unpack

        message = Message(kind, {"round": 3, "client": 1, "back": back}, tensors)
        request = CellMessage(payload=pack(message))
        reply = self._cell.send_request(
            channel=CellChannel.AUX_COMMUNICATION, topic="bench", target="server", request=request, timeout=600
        )
        unpack(reply.payload, lambda kind, header: ANY_TENSORS)

    def close(self) -> None:
        if self._cell is not None:
            self._cell.stop()


# --- measuring ------------------------------------------------------------------------------------------------------


def free_port() -> int:
    import socket

    with socket.create_server((HOST, 0)) as holder:
        return int(holder.getsockname()[1])


class Setup:
    """A server process and a client here; later a proxy between them that counts bytes."""

    def __init__(self, kind: str, folder: str) -> None:
        port, own = free_port(), free_port()
        command = [
            sys.executable,
            __file__,
            "serve",
            kind,
            "--folder",
            folder,
            "--port",
            str(port),
            "--peer",
            str(own),
        ]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None and self.process.stdout.readline().strip() == "ready"
        self.proxy = RecordingProxy(port, keep=False)
        self.client: Any
        if kind == "nvflare":
            self.client = NVFlareClient(folder, port)
        else:
            self.client = HostClient(own, port) if kind == "fs" else OurClient(kind, folder, port)

    def count(self, call: Callable[[Any], object]) -> int:
        """Bytes that go through the proxy, both ways."""
        self.client.connect(self.proxy.port)
        self.client.exchange(NOTHING, False)  # handshakes are not counted
        time.sleep(0.3)
        before = self.proxy.passed
        call(self.client)
        time.sleep(0.3)
        return self.proxy.passed - before

    def ticks(self) -> int:
        """CPU ticks that the server has used so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    def close(self) -> str:
        try:
            self.client.close()
            self.proxy.__exit__()
            told, _ = self.process.communicate("", timeout=60)
        finally:
            self.process.kill()  # FederatedScope's waits for ever where a message was lost
        return told.strip()


@contextmanager
def running(kind: str, folder: str) -> Iterator[Setup]:
    setup = Setup(kind, folder)
    try:
        yield setup
    except BaseException:
        setup.process.kill()
        raise
    setup.close()


def seconds(call: Callable[[], object], times: int = 1) -> float:
    begun = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - begun) / times


def measure(kind: str, folder: str, tensors: dict[str, torch.Tensor], small: dict[str, torch.Tensor],
            idle: float) -> dict[str, float]:  # fmt: skip
    file = len(save(tensors))
    found = {}
    with running(kind, folder) as setup:
        client = setup.client
        client.exchange(NOTHING, False)
        found["messages"] = 1 / seconds(lambda: client.exchange(NOTHING, False), 100)
        client.exchange(tensors, True)
        found["there and back"] = seconds(lambda: client.exchange(tensors, True), 3)
        found["evaluate"] = seconds(lambda: client.exchange(small, False, "evaluate"), 1)
        before = setup.ticks()
        time.sleep(idle)
        found["idle"] = (setup.ticks() - before) / idle
        found["bytes"] = setup.count(lambda client: client.exchange(tensors, False)) / file
        found["evaluate bytes"] = setup.count(lambda client: client.exchange(small, False, "evaluate")) / len(
            save(small)
        )
    return found


def certificates(folder: str) -> None:
    from fs_fedmllm.distributed.authority import create_authority, create_identity

    create_authority(Path(folder), "benchmark")
    create_identity(Path(folder), 0, [HOST])
    create_identity(Path(folder), 1)


ROWS = (
    ("messages", "small messages there and back, per second", "{:,.0f}"),
    ("there and back", "seconds for an adapter of {mib:.1f} MiB there and back", "{:.3f}"),
    ("bytes", "bytes on the wire per byte of its safetensors file, one way", "{:.3f}"),
    ("evaluate", "seconds for an `evaluate` message of {small:.2f} MiB, one way", "{:.3f}"),
    ("evaluate bytes", "bytes on the wire per byte of its file", "{:.3f}"),
    ("idle", "CPU ticks per second (of 100) of a server that waits", "{:.1f}"),
)


def compare(args: argparse.Namespace) -> None:
    tensors, small = adapter(args.parameters), adapter(args.parameters // 20)
    runs: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
    with tempfile.TemporaryDirectory() as folder:
        certificates(folder)
        for repeat in range(args.repeats):
            for kind in (KINDS, KINDS[::-1])[repeat % 2]:
                runs[kind].append(measure(kind, folder, tensors, small, args.idle))
                print(repeat, kind, json.dumps(runs[kind][-1]), flush=True)
    sizes = {"mib": len(save(tensors)) / 2**20, "small": len(save(small)) / 2**20}
    lines = [
        f"| median of {args.repeats} | "
        + " | ".join(NAMES[kind] for kind in KINDS)
        + " | ours (TLS) against the first |",
        "| --- |" + " ---: |" * len(KINDS) + " --- |",
    ]
    for name, title, form in ROWS:
        values = {kind: statistics.median(run[name] for run in runs[kind]) for kind in KINDS}
        ratio = values["fs"] / max(values["tls"], 0.1 if name == "idle" else 1e-9)
        less = "less" if ratio >= 1 else "more"
        said = f"{max(ratio, 1 / ratio):,.1f} times {less}"
        cells = [form.format(values[kind]) for kind in KINDS]
        lines.append(f"| {title.format(**sizes)} | {' | '.join(cells)} | {said} |")
    table = "\n".join(lines)
    print(table)
    if args.out:
        path = Path(args.out)
        head, _, tail = path.read_text().partition("<!-- table -->\n")
        _, _, tail = tail.partition("<!-- end -->\n")
        path.write_text(f"{head}<!-- table -->\n{table}\n<!-- end -->\n{tail}")


def large(args: argparse.Namespace) -> None:
    """One large adapter through our transport under TLS."""
    tensors = adapter(int(args.gib * 2**30) // 4, 224)
    size = sum(tensor.nbytes for tensor in tensors.values())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tempfile.TemporaryDirectory() as folder:
        certificates(folder)
        setup = Setup("tls", folder)
        try:
            setup.client.exchange(NOTHING, False)
            up = seconds(lambda: setup.client.exchange(tensors, False))
            grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
            print(f"adapter of {size / 2**30:.2f} GiB up: {up:.1f} s, {size / up / 2**20:.0f} MiB/s", flush=True)
        finally:
            peak = int(setup.close())
    print(f"server's peak memory {peak / 2**20:.2f} GiB; sender's grew by {grown / 2**20:.2f} GiB sending")


def start_serving(args: argparse.Namespace) -> None:
    if args.kind == "fs":
        serve_host(args.port, args.peer)
    elif args.kind == "nvflare":
        serve_nvflare(args.folder, args.port)
    else:
        serve_ours(args.kind, args.folder, args.port)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.set_defaults(function=compare)
    verbs = parser.add_subparsers()
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--parameters", type=int, default=1_310_720)
    parser.add_argument("--idle", type=float, default=3.0, help="seconds")
    parser.add_argument("--out", default=str(REPOSITORY / "benchmarks" / "transport.md"))
    big = verbs.add_parser("large")
    big.add_argument("--gib", type=float, default=2.2)
    big.set_defaults(function=large)
    serve = verbs.add_parser("serve")
    serve.add_argument("kind", choices=KINDS)
    serve.add_argument("--folder")
    serve.add_argument("--port", type=int)
    serve.add_argument("--peer", type=int)
    serve.set_defaults(function=start_serving)
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    args.function(args)


if __name__ == "__main__":
    main()
