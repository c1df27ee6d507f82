"""Virtual time to an accuracy with stragglers of ten times the time: synchronous rounds against asynchronous ones.

    python benchmarks/async.py run FOLDER      each cell once; the same command goes on where it stopped
    python benchmarks/async.py table FOLDER    the table, as Markdown

Ten clients, of whom the last two take 10 seconds for an update and the others 0.8 to 1.2, on a virtual clock. Every
arm computes as many client updates, so what differs is how long the server waits, and for whom. A synchronous round
takes as long as its slowest client.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kept_cells import cell_file, command, kept_cells

PRESET = Path(__file__).resolve().parent.parent / "configs" / "aligned_a05.yaml"
SEEDS = (0,)
SECONDS = [0.8, 0.85, 0.9, 0.95, 1.05, 1.1, 1.15, 1.2, 10, 10]
UPDATES = 90
TARGETS = (0.3, 0.5, 0.7)
ALL, THREE = ["federate.sample_client_num", "10"], ["federate.sample_client_num", "3"]
BUFFERED = [*ALL, "fedmllm.async.buffer", "3", "fedmllm.async.seconds", str(SECONDS)]
#: Arm -> updates a round, rounds between evaluations, command-line words.
ARMS: dict[str, tuple[int, int, list[str]]] = {
    "synchronous, all ten": (10, 1, ALL),
    "synchronous, three drawn": (3, 3, THREE),
    "asynchronous, buffer 3": (3, 3, [*BUFFERED, "fedmllm.async.max_staleness", "40"]),
}


def clocks(results: dict[str, Any]) -> list[float]:
    """Virtual seconds at the end of each round."""
    if "async" in results:
        return list(results["async"]["clocks"])
    found = [0.0]
    for clients in results["participants"]:
        found.append(found[-1] + max(SECONDS[client - 1] for client in clients))
    return found[1:]


def run_cells(folder: Path) -> None:
    """Every cell that is not there yet."""
    from fs_fedmllm import config as schema
    from fs_fedmllm.runs.simulation import run

    for seed in SEEDS:
        for arm, (size, every, words) in ARMS.items():
            cell = cell_file(folder, arm, seed)
            if cell.is_file():
                continue
            common = ["seed", str(seed), "federate.total_round_num", str(UPDATES // size), "eval.freq", str(every)]
            # The rate falls over rounds, and arms have other numbers of them: it is all but constant here.
            common += ["fedmllm.train.lr_horizon", "1000", "fedmllm.train.warmup_ratio", "0"]
            common += ["fedmllm.eval.zero_shot", "False", "fedmllm.eval.slices", "never", "fedmllm.workers", "1",
                       "fedmllm.eval.limit", "100", "train.local_update_steps", "4"]  # fmt: skip
            results, _ = run(
                schema.load(PRESET, [*common, "outdir", str(folder / "runs"), "expname", cell.stem, *words])
            )
            times = clocks(results)
            curve = [[times[e["round"] - 1], e["round"] * size, e["test_acc"]] for e in results["evaluations"]]
            kept = {"arm": arm, "seed": seed, "curve": curve, "async": results.get("async")}
            cell.write_text(json.dumps(kept) + "\n")
            print(cell.stem, curve[-1], flush=True)


def reached(curve: Sequence[Sequence[float]], target: float) -> str:
    """Virtual seconds and updates at the first evaluation with an accuracy, or a dash."""
    return next((f"{time:.0f} s ({int(updates)})" for time, updates, acc in curve if acc >= target), "-")


def table(folder: Path) -> None:
    """A row for each cell."""
    cells = kept_cells(folder)
    heads = [f"to {target:.0%}" for target in TARGETS]
    print(f"| arm | seed | {' | '.join(heads)} | at the end | accuracy there | mean staleness | dropped |")
    print("|---" * (len(heads) + 6) + "|")
    for arm in ARMS:
        for cell in (cell for cell in cells if cell["arm"] == arm):
            told, last = cell["async"] or {"staleness": {"0": 1}, "dropped": {}}, cell["curve"][-1]
            count = sum(told["staleness"].values())
            age = sum(int(age) * n for age, n in told["staleness"].items()) / count
            first = " | ".join(reached(cell["curve"], target) for target in TARGETS)
            print(
                f"| {arm} | {cell['seed']} | {first} | {last[0]:.0f} s | {last[2]:.3f} | {age:.2f} "
                f"| {sum(told['dropped'].values())} |"
            )


if __name__ == "__main__":
    command(__doc__, run_cells, table)
