"""The README on one machine: a server and three sites, each a process in a folder with its own data only."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
PROGRAM = [sys.executable, "-m", "fs_fedmllm"]


def main(root: Path, *overrides: str) -> int:
    """Run it below a folder; 0 if every site ended well."""
    root.mkdir(parents=True, exist_ok=True)
    config = HERE / "hospitals.yaml"

    def fs_fedmllm(*words: object) -> None:
        subprocess.run([*PROGRAM, *map(str, words)], cwd=root, check=True)

    fs_fedmllm("data", "split", config, "--out", "dealt", "--per-client-folders", "--images", "copy", *overrides)
    fs_fedmllm("certs", "init", "--name", "hospitals", "--folder", "authority")
    sites = {0: root / "server"} | {client: root / f"hospital_{client}" for client in (1, 2, 3)}
    for client, home in sites.items():
        name = f"client_{client}" if client else "server"
        home.mkdir()
        shutil.move(root / "dealt" / name, home / "data")
        shutil.copy(config, home)
        who = ["client", "--id", client] if client else ["server", "--host", "127.0.0.1"]
        fs_fedmllm("certs", *who, "--folder", "authority", "--out", home / "certs")
    shutil.rmtree(root / "dealt")  # nobody has all of it any more
    running = []
    for client, home in sites.items():
        role = "client" if client else "server"
        with (home / "log.txt").open("wb") as log:
            words = [*PROGRAM, role, "hospitals.yaml", *overrides, "--data", "data"]
            running.append(subprocess.Popen(words, cwd=home, stdout=log, stderr=subprocess.STDOUT, env=os.environ))
    codes = [process.wait() for process in running]
    for (client, home), code in zip(sites.items(), codes, strict=True):
        print(f"{'client ' + str(client) if client else 'server'}: exit {code}, log {home / 'log.txt'}")
    return max(map(abs, codes))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="a folder that is empty, or not there yet")
    parser.add_argument("overrides", nargs="*", help="key value pairs for every site, e.g. federate.total_round_num 2")
    args = parser.parse_args()
    if args.folder.exists() and (not args.folder.is_dir() or any(args.folder.iterdir())):
        parser.error(f"{args.folder} is no empty folder; name another.")
    sys.exit(main(args.folder, *args.overrides))
