"""Flower's simulation with the plain Hugging Face client: (b) of the comparison.

    RIVALS_FOLDER=... RIVALS_NAME=flower python benchmarks/rivals/flower.py plan.json call|actor

``call`` builds the model in every call of the client, as Flower's own example for language models does; ``actor``
keeps it in the actor's process, which Flower does not do by itself.
"""

from __future__ import annotations

import os
import sys
from typing import Any

HERE = os.path.dirname(os.path.abspath(__file__))
os.environ["PYTHONPATH"] = HERE + os.pathsep + os.environ.get("PYTHONPATH", "")  # for Ray's processes

import flower_client  # noqa: E402
import hf_client  # noqa: E402
import turnstile  # noqa: E402
from flwr.app import ArrayRecord, ConfigRecord, Context, MetricRecord  # noqa: E402
from flwr.serverapp import Grid, ServerApp  # noqa: E402
from flwr.serverapp.strategy import FedAvg  # noqa: E402
from flwr.simulation import run_simulation  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

PLAN, KEEP = os.path.abspath(sys.argv[1]), sys.argv[2]
#: Client turns side by side, each with a model of its own.
ACTORS = int(os.environ.get("RIVALS_ACTORS", "2"))
server_app = ServerApp()


class Planned(FedAvg):
    """Flower's FedAvg, told which of the plan's clients each drawn node stands for."""

    def configure_train(self, server_round: int, arrays: Any, config: Any, grid: Grid) -> Any:
        """Flower's own drawing and messages; the plan's clients are dealt to the drawn nodes."""
        turnstile.enter(str(server_round - 1))
        messages = list(super().configure_train(server_round, arrays, config, grid))
        clients = list(hf_client.read_plan(PLAN)["rounds"][server_round - 1])
        for message in messages:
            for other, client in zip(messages, clients, strict=True):
                message.content["config"][f"node-{other.metadata.dst_node_id}"] = client
        return messages


def _aggregated(server_round: int, arrays: ArrayRecord) -> MetricRecord:
    if server_round:
        turnstile.leave(str(server_round - 1))
    return MetricRecord()


@server_app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the rounds."""
    plan = hf_client.read_plan(PLAN)
    nodes, drawn = len(plan["clients"]), len(plan["rounds"][0])
    strategy = Planned(
        fraction_train=drawn / nodes, fraction_evaluate=0.0, min_train_nodes=drawn, min_available_nodes=nodes
    )
    strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord(load_file(plan["adapter"])),
        train_config=ConfigRecord({"plan": PLAN, "keep": KEEP}),
        num_rounds=plan["counted"],
        evaluate_fn=_aggregated,
        timeout=7200,
    )


if __name__ == "__main__":
    run_simulation(
        server_app=server_app,
        client_app=flower_client.app,
        num_supernodes=len(hf_client.read_plan(PLAN)["clients"]),
        backend_config={
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
            "init_args": {"address": "local", "num_cpus": ACTORS, "logging_level": "ERROR", "log_to_driver": False},
        },
    )
