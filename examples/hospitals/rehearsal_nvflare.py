"""The README's NVFlare part on one machine: a server and three sites, provisioned, each with its own data only."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

HERE = Path(__file__).resolve().parent
PROGRAM = [sys.executable, "-m", "fs_fedmllm"]
SERVER, ADMIN = "localhost", "study@coordinator.org"
SITES = {f"hospital-{client}": f"client_{client}" for client in (1, 2, 3)}


def provision(root: Path, port: int, *overrides: str) -> dict[str, Path]:
    """Deal the data, make everybody's kit, and give each site its own data only; the kits by name."""
    root.mkdir(parents=True, exist_ok=True)
    project = (HERE / "project.yml").read_text().replace("8002", str(port))
    (root / "project.yml").write_text(project)
    words = ["data", "split", HERE / "hospitals.yaml", "--out", root / "dealt", "--per-client-folders"]
    subprocess.run([*PROGRAM, *map(str, words), "--images", "copy", *overrides], check=True)
    nvflare = [sys.executable, "-m", "nvflare.cli", "provision", "-p", "project.yml", "-w", "provisioned", "--force"]
    subprocess.run(nvflare, cwd=root, check=True)
    kits = {}
    for name in (SERVER, *SITES, ADMIN):
        home = root / name
        home.mkdir()
        kits[name] = home / "kit"
        shutil.move(root / "provisioned" / "hospitals" / "prod_00" / name, kits[name])
        if name != ADMIN:
            shutil.move(root / "dealt" / SITES.get(name, "server"), home / "data")
            site = [*PROGRAM, "nvflare", "site", str(kits[name]), "--data", str(home / "data")]
            subprocess.run(site, check=True)
    shutil.rmtree(root / "dealt")  # nobody has all of it any more
    return kits


def start(kit: Path) -> subprocess.Popen[bytes]:
    """Start NVFlare's daemon of a kit, as its startup/start.sh does, in the foreground of a session of its own."""
    role = "server" if (kit / "startup" / "fed_server.json").is_file() else "client"
    command = [sys.executable, "-u", "-m", f"nvflare.private.fed.app.{role}.{role}_train", "-m", str(kit)]
    command += ["-s", f"fed_{role}.json", "--set", "secure_train=true", "config_folder=config", "org=hospitals"]
    command += [f"uid={kit.parent.name}"] if role == "client" else []
    with (kit / "daemon.txt").open("ab") as log:
        return subprocess.Popen(command, cwd=kit, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)


@contextmanager
def running(kits: dict[str, Path], port: int) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    """The daemons of the server and the sites, for the length of a block."""
    started: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for name in (SERVER, *SITES):
            started[name] = start(kits[name])
            if name == SERVER:
                reach(port)
        yield started
    finally:
        for process in started.values():
            with_all(process, signal.SIGTERM)
        for process in started.values():
            with suppress(subprocess.TimeoutExpired):
                process.wait(20)
            with_all(process, signal.SIGKILL)
            process.wait()


def with_all(process: subprocess.Popen[bytes], number: int) -> None:
    """Signal a daemon and what it has started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def reach(port: int, patience: float = 300.0) -> None:
    """Wait until somebody listens on the port."""
    until = time.monotonic() + patience
    while True:
        try:
            socket.create_connection((SERVER, port), 5).close()
            return
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.5)


def submit(root: Path, kits: dict[str, Path], *overrides: str) -> int:
    """Make the job, submit it, and stay with it to its end."""
    job = [*PROGRAM, "nvflare", "job", HERE / "hospitals.yaml", *overrides, "--out", root / "job"]
    subprocess.run([str(word) for word in [*job, "--sites", ",".join(SITES)]], check=True)
    follow = [*PROGRAM, "nvflare", "submit", str(root / "job"), "--admin", str(kits[ADMIN]), "--follow"]
    return subprocess.run(follow, check=False).returncode


def main(root: Path, *overrides: str) -> int:
    """Run it below a folder; 0 if the job ended well."""
    with socket.create_server((SERVER, 0)) as holder:
        port = int(holder.getsockname()[1])
    kits = provision(root.absolute(), port, *overrides)
    with running(kits, port):
        return submit(root.absolute(), kits, *overrides)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="a folder that is empty, or not there yet")
    parser.add_argument("overrides", nargs="*", help="key value pairs for every site, e.g. federate.total_round_num 2")
    args = parser.parse_args()
    if args.folder.exists() and (not args.folder.is_dir() or any(args.folder.iterdir())):
        parser.error(f"{args.folder} is no empty folder; name another.")
    sys.exit(main(args.folder, *args.overrides))
