"""FederatedScope's own distributed mode in a plugged checkout: a job that is not ours runs as it always did."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

import pytest
import yaml
from waiting import LONG, free_port, wait_until

pytest.importorskip("grpc")

MAIN = "federatedscope/main.py"
LAST = "received finish message"
SITES = (1, 2)  # of the three for which FederatedScope's example has data


def listens(port: int) -> bool:
    """Whether somebody does there."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), LONG):
        return True
    return False


def job(client: int, free: list[int], folder: Path) -> dict:
    """FederatedScope's example of a distributed run (scripts/distributed_scripts), shortened; 0 is the server."""
    distribute = {"use": True, "server_host": "127.0.0.1", "server_port": free[0], "data_idx": client}
    distribute |= {"role": "client" if client else "server"}
    if client:
        distribute |= {"client_host": "127.0.0.1", "client_port": free[client]}
    return {
        "outdir": str(folder / "runs"),
        "expname": f"site{client}",
        "use_gpu": False,
        "federate": {"client_num": len(SITES), "mode": "distributed", "total_round_num": 3, "online_aggr": False,
                     "make_global_eval": not client},
        "distribute": distribute,
        "trainer": {"type": "general"},
        "eval": {"freq": 3, "count_flops": False},
        "data": {"type": "file", "file_path": str(folder / "toy_data" / "all_data")},
        "model": {"type": "lr"},
    }  # fmt: skip


def test_a_stock_distributed_job_runs_over_its_own_wire(plugged, host, tmp_path) -> None:
    made = host.run(plugged / "scripts/distributed_scripts/gen_data.py", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    free = [free_port() for _ in (0, *SITES)]
    running = []
    try:
        for client in (0, *SITES):
            config = tmp_path / f"{client}.yaml"
            config.write_text(yaml.safe_dump(job(client, free, tmp_path)))
            log = tmp_path / f"log_{client}.txt"
            running.append(host.start(MAIN, "--cfg", config, cwd=plugged, log=log))
            if not client:  # its clients call once, and end if nobody listens
                wait_until(lambda: running[0].poll() is not None or listens(free[0]))
                assert running[0].poll() is None, log.read_text()[-3000:]
        # Not until they exit: a server that calls a client which has just left waits for ever (its RPCs have no
        # deadline), with the plug or without.
        said = {0: "Final evaluation is finished"} | dict.fromkeys(SITES, LAST)
        wait_until(lambda: all(last in (tmp_path / f"log_{c}.txt").read_text() for c, last in said.items()))
    finally:
        for process in running:
            process.kill()
            process.wait()
    logs = {client: (tmp_path / f"log_{client}.txt").read_text() for client in (0, *SITES)}
    assert "Final evaluation is finished" in logs[0] and "'Round': 3" in logs[0], logs[0][-3000:]
    for client in SITES:
        assert "'Round': 2" in logs[client] and LAST in logs[client], logs[client][-3000:]
    assert not list((tmp_path / "runs").glob("**/status.json"))  # nothing of ours had a part in it
