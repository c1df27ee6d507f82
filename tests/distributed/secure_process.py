"""One site of a run under secure aggregation, as a process of its own: python secure_process.py CLIENT FOLDER WORDS...

Client 0 is the server. Data comes from the embedded set; each site keeps its own rows only.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from fs_fedmllm import config as schema
from fs_fedmllm.distributed.service import serve, take_part
from fs_fedmllm.rounds.federation import Federation
from fs_fedmllm.runs.listener import Listener
from fs_fedmllm.runs.run_folder import RunFolder
from fs_fedmllm.runs.session import Session
from fs_fedmllm.scenarios.federated_data import prepare_data

PRESET = Path(__file__).resolve().parents[2] / "configs" / "cross_i3t7.yaml"


def main(client: int, folder: Path, words: list[str]) -> None:
    config = schema.load(PRESET, words)
    everything = prepare_data(config)
    if client:
        data = replace(everything, clients={client: everything.clients[client]}, split=everything.manifest.sha256)
        take_part(config, client, data, Federation.build(config, data), folder / f"client_{client}")
    else:
        data = replace(everything, clients={}, split=everything.manifest.sha256)
        session = Session(Federation.build(config, data), RunFolder(folder / "server", config), Listener())
        serve(session, data, linger=10.0)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
