"""Flower's simulation with the plain Hugging Face client: (b) of the comparison.

    python benchmarks/rivals/flower.py plan.json times.json call|actor

``call`` builds the model in every call of the client, as Flower's own example for language models does; ``actor``
keeps it in the actor's process, which Flower does not do by itself.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from typing import Any

os.environ.setdefault("RAY_DEDUP_LOGS", "0")
HERE = os.path.dirname(os.path.abspath(__file__))
os.environ["PYTHONPATH"] = HERE + os.pathsep + os.environ.get("PYTHONPATH", "")

import flower_client  # noqa: E402
from flwr.app import ArrayRecord, ConfigRecord, Context, MetricRecord  # noqa: E402
from flwr.serverapp import Grid, ServerApp  # noqa: E402
from flwr.serverapp.strategy import FedAvg  # noqa: E402
from flwr.simulation import run_simulation  # noqa: E402

PLAN, TIMES, KEEP = sys.argv[1], sys.argv[2], sys.argv[3]
server_app = ServerApp()


class Planned(FedAvg):
    """Flower's FedAvg, told which of the plan's clients each drawn node stands for."""

    def configure_train(self, server_round: int, arrays: Any, config: Any, grid: Grid) -> Any:
        """Flower's own drawing and messages; the plan's clients are dealt to the drawn nodes."""
        messages = list(super().configure_train(server_round, arrays, config, grid))
        clients = list(_plan()["rounds"][server_round - 1])
        for message in messages:
            for other, client in zip(messages, clients, strict=True):
                message.content["config"][f"node-{other.metadata.dst_node_id}"] = client
        return messages


def _plan() -> dict[str, Any]:
    with open(PLAN, encoding="utf-8") as stream:
        return json.load(stream)


@server_app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the rounds and note when each was aggregated."""
    import hf_client
    from peft import get_peft_model_state_dict

    plan = _plan()
    nodes = len(plan["clients"])
    strategy = Planned(
        fraction_train=len(plan["rounds"][0]) / nodes,
        fraction_evaluate=0.0,
        min_train_nodes=2,
        min_available_nodes=nodes,
    )
    stamps: list[float] = []

    def aggregated(server_round: int, arrays: ArrayRecord) -> MetricRecord:
        stamps.append(time.perf_counter())
        return MetricRecord()

    model, _ = hf_client.build(plan)
    result = strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord(get_peft_model_state_dict(model)),
        train_config=ConfigRecord({"plan": PLAN, "keep": KEEP}),
        num_rounds=len(plan["rounds"]),
        evaluate_fn=aggregated,
    )
    losses = [dict(record)["loss"] for record in result.train_metrics_clientapp.values()]
    times = [{"round": later - earlier} for earlier, later in itertools.pairwise(stamps)]
    with open(TIMES, "w", encoding="utf-8") as stream:
        json.dump({"times": times, "losses": losses}, stream)


if __name__ == "__main__":
    run_simulation(
        server_app=server_app,
        client_app=flower_client.app,
        num_supernodes=len(_plan()["clients"]),
        backend_config={
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
            "init_args": {"num_cpus": 2, "logging_level": "ERROR", "log_to_driver": False},
        },
    )
