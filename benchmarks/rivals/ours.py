"""Our embedded engine on the same plan.

python benchmarks/rivals/ours.py plan.json times.json WORKERS
"""

from __future__ import annotations

import itertools
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from plan import PRESET, overrides

from fs_fedmllm import config as schema
from fs_fedmllm.session import Silent
from fs_fedmllm.simulation import run


class Stopwatch(Silent):
    """Notes when each round's evaluation was done."""

    def __init__(self) -> None:
        self.evaluated_at: list[float] = []

    def evaluated(self, done_rounds: int, figures: dict[str, float]) -> None:
        """After a round."""
        self.evaluated_at.append(time.perf_counter())


def main(plan_file: str, times_file: str, workers: str) -> None:
    """Run the plan and write each round's seconds."""
    plan: dict[str, Any] = json.loads(Path(plan_file).read_text())
    watch = Stopwatch()
    with tempfile.TemporaryDirectory() as folder:
        words = [*overrides(len(plan["rounds"]), plan["steps"]), "outdir", folder, "expname", "run"]
        run(schema.load(PRESET, [*words, "fedmllm.workers", workers]), listener=watch)
        lines = [json.loads(x) for x in (Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()]
    rounds = [line["seconds"] for line in lines if line["kind"] == "round"]
    losses = [line["loss"] for line in lines if line["kind"] == "turn"]
    gaps = [later - earlier for earlier, later in itertools.pairwise(watch.evaluated_at)]
    times = [{"round": r, "evaluated": g} for r, g in zip(rounds, [float("nan"), *gaps], strict=True)]
    Path(times_file).write_text(json.dumps({"times": times, "losses": losses}))


if __name__ == "__main__":
    main(*sys.argv[1:])
