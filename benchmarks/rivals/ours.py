"""Our embedded engine on the same plan, with everything that ``fs-fedmllm run`` does around a round.

RIVALS_FOLDER=... RIVALS_NAME=ours python benchmarks/rivals/ours.py plan.json WORKERS
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import turnstile
from plan import overrides

from fs_fedmllm import config as schema
from fs_fedmllm.rounds.federation import Federation
from fs_fedmllm.rounds.workers import WorkerPool, useful_workers
from fs_fedmllm.runs.listener import Listener
from fs_fedmllm.runs.run_folder import RunFolder
from fs_fedmllm.runs.session import Session
from fs_fedmllm.scenarios.federated_data import prepare_data


class Printed(Listener):
    """Prints the losses, which must be the rivals' up to the dropout masks."""

    def trained(self, round_index: int, update: Any) -> None:
        """After a turn."""
        print(round_index, update.client, update.log.loss, flush=True)


def main(plan_file: str, workers: str) -> None:
    """Run the plan."""
    plan: dict[str, Any] = json.loads(Path(plan_file).read_text())
    words = [*overrides(len(plan["rounds"]), plan["steps"]), *plan["words"], "fedmllm.workers", workers]
    config = schema.load(Path(plan["config"]), words)
    federation = Federation.build(config, prepare_data(config))
    with tempfile.TemporaryDirectory() as folder:
        session = Session(federation, RunFolder(Path(folder) / "run", config), Printed())
        with WorkerPool(federation, useful_workers(federation)) as pool:
            for index in range(plan["counted"]):
                with turnstile.turn(str(index)):
                    clients = session.begin_round().clients
                    for outcome in pool.updates(clients, index, session.message, session.state.clients):
                        session.take(outcome)
                    session.end_round()
                    session.checkpoint()
                with turnstile.turn(f"{index}-evaluation"):
                    session.evaluate()


if __name__ == "__main__":
    main(*sys.argv[1:])
