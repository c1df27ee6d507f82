"""FederatedScope's own command in distributed mode, on a plugged checkout: our round loop over our transport."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
import yaml
from forks import Forked
from short_runs import CONFIGS, SHORT
from waiting import LONG, free_port, wait_until

from fs_fedmllm import config as schema
from fs_fedmllm.runs.simulation import run

grpc = pytest.importorskip("grpc")

PRESET = CONFIGS / "cross_i3t7.yaml"
WORDS = [
    *SHORT, "federate.total_round_num", "4", "federate.client_num", "2", "federate.sample_client_num", "2",
    "eval.freq", "4", "fedmllm.eval.limit", "4", "train.local_update_steps", "1",
    "data.splitter_args", "[{alpha: 5.0, image_clients: 1, text_clients: 1}]",
]  # fmt: skip


def _listens(port: int) -> bool:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        try:
            channel.unary_unary("/gRPCComServeFunc/sendMessage")(b"", timeout=LONG)
        except grpc.RpcError as error:
            return bool(error.code() != grpc.StatusCode.UNAVAILABLE)
    return True


def test_federatedscopes_main_runs_the_sites_and_resumes_a_stopped_server(plugged, host, tmp_path: Path) -> None:
    """The adapter of one machine, in the folder that the first start made; FederatedScope's own port stays shut."""
    ours, stock = free_port(), free_port()
    network = ["fedmllm.network.address", f"127.0.0.1:{ours}", "fedmllm.network.insecure", "True"]
    network += ["federate.mode", "distributed", "outdir", str(tmp_path / "runs"), "expname", "ward"]
    raw = schema.given_mapping(PRESET, [*WORDS, *network])
    folder, running = tmp_path / "runs" / "ward", {}

    def logs() -> str:
        return "\n".join(f"{path.name}: {path.read_text()[-1500:]}" for path in sorted(tmp_path.glob("log_*.txt")))

    def start(client: int) -> Forked:
        config = tmp_path / f"{client}.yaml"
        role = {"use": True, "role": "client" if client else "server", "data_idx": client or -1, "client_port": stock}
        config.write_text(yaml.safe_dump({**raw, "distribute": role}))
        log = tmp_path / f"log_{client}.txt"
        process: Forked = host.start("federatedscope/main.py", "--cfg", config, cwd=plugged, log=log)
        # FederatedScope looks for its folder and then makes it: of two processes at once, one ends.
        wait_until(
            lambda: process.poll() is not None or (log.is_file() and "output dir is" in log.read_text()), says=logs
        )
        return process

    def rounds() -> int:
        path = folder / "events.jsonl"
        return path.read_text().count('"event": "round"') if path.is_file() else 0

    try:
        running = {client: start(client) for client in (0, 1, 2)}
        wait_until(lambda: rounds() or running[0].poll() is not None, says=logs)
        assert rounds(), logs()
        opened = _listens(stock)
        running[0].send_signal(signal.SIGTERM)
        assert running[0].wait() == 0, logs()
        stopped = rounds()
        running[0] = start(0)
        codes = [running[client].wait() for client in (0, 1, 2)]
    finally:
        for process in running.values():
            process.kill()
    assert codes == [0, 0, 0], logs()
    assert 0 < stopped < 4 and not opened
    results = json.loads((folder / "results.json").read_text())
    embedded, _ = run(schema.load(PRESET, [*WORDS, "outdir", str(tmp_path / "one")]))
    assert results["adapter_sha256"] == embedded["adapter_sha256"]
    assert results["evaluations"] == embedded["evaluations"]
    assert (folder / "exp_print.log").is_file()  # FederatedScope's
    for client in (1, 2):
        assert (folder / f"client_{client}" / "adapter" / "adapter_model.safetensors").is_file()
