"""A round of ours beside a round of the authors' loop, of Flower and of NVFlare, alternating in one run.

    python benchmarks/rivals/compare.py --flower VENV/bin/python --nvflare VENV/bin/python [--rounds 5] [--steps 6]

Each environment needs torch, transformers and peft of the versions here, and ``flwr[simulation]`` or ``nvflare``. A
contestant without an environment is left out. All get the same plan (model, LoRA, rows, batches, rates). Printed are
medians over the rounds after a first one that is not counted, as wall time and as CPU time of the contestant with
all of its processes; the ratios of CPU time hold on a busy machine too.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection
from pathlib import Path

import turnstile

#: Contestant -> of each round, "round" and perhaps "evaluation" -> "wall" and "cpu" seconds.
Times = dict[str, list[dict[str, dict[str, float]]]]
HERE = Path(__file__).resolve().parent


def _processes() -> dict[int, tuple[int, float]]:
    """pid -> (parent, seconds of CPU time of it and of its finished children), from /proc."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            found[int(entry.name)] = (int(fields[1]), sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK"))
    return found


def cpu_seconds(root: int) -> float:
    """CPU time of a process and of all below it."""
    processes = _processes()
    total, family = 0.0, {root}
    for _ in range(16):  # generations
        family |= {pid for pid, (parent, _) in processes.items() if parent in family}
    for pid in family & set(processes):
        total += processes[pid][1]
    return total


def table(times: Times, evaluated: Collection[str], steps: int) -> str:
    """The medians as Markdown."""

    def median(name: str, what: str, clock: str) -> float:
        return statistics.median(figures[what][clock] for figures in times[name])

    first = next(iter(times))
    lines = [
        f"medians of {len(times[first])} alternating rounds: 2 clients of {steps} steps of 16 rows, 32 test rows",
        "| contestant | round, wall s | round, CPU s | CPU / ours | evaluation, CPU s | both, CPU / ours |",
        "|---|---|---|---|---|---|",
    ]
    for name in times:
        wall, cpu = median(name, "round", "wall"), median(name, "round", "cpu")
        cells = [name, f"{wall:.2f}", f"{cpu:.2f}", f"{cpu / median(first, 'round', 'cpu'):.2f}", "", ""]
        if name in evaluated:
            evaluation = median(name, "evaluation", "cpu")
            both = median(first, "round", "cpu") + median(first, "evaluation", "cpu")
            cells[4:] = [f"{evaluation:.2f}", f"{(cpu + evaluation) / both:.2f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Run the contest and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flower", help="python of an environment with flwr[simulation]")
    parser.add_argument("--nvflare", help="python of an environment with nvflare")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--log", type=Path, help="folder for the contestants' output")
    chosen = parser.parse_args()
    contestants = {
        "ours, one process": [sys.executable, "ours.py", "PLAN", "1"],
        "ours, two workers": [sys.executable, "ours.py", "PLAN", "2"],
        "authors' loop": [sys.executable, "authors.py", "PLAN"],
    }
    if chosen.flower:
        contestants["Flower, model per call"] = [chosen.flower, "flower.py", "PLAN", "call"]
        contestants["Flower, model kept"] = [chosen.flower, "flower.py", "PLAN", "actor"]
    if chosen.nvflare:
        contestants["NVFlare"] = [chosen.nvflare, "flare.py", "PLAN"]
    evaluated = ("ours, one process", "ours, two workers", "authors' loop")

    with tempfile.TemporaryDirectory() as folder:
        plan = Path(folder) / "plan.json"
        # One round first that is not counted, and one at the end, whose beginning ends NVFlare's last.
        total = chosen.rounds + 2
        subprocess.run([sys.executable, HERE / "plan.py", plan, "--rounds", str(total), "--steps", str(chosen.steps)],
                       check=True, capture_output=True)  # fmt: skip
        logs = chosen.log or Path(folder)
        logs.mkdir(parents=True, exist_ok=True)
        running: dict[str, subprocess.Popen[bytes]] = {}
        times: Times = {name: [] for name in contestants}
        for name, command in contestants.items():
            environment = {
                **os.environ,
                turnstile.FOLDER: folder,
                turnstile.NAME: name.replace(" ", "_"),
                "OMP_NUM_THREADS": "1",
                "HF_HUB_OFFLINE": "1",
                "RAY_raylet_start_wait_time_s": "600",
            }
            words = [str(plan) if word == "PLAN" else word for word in command]
            with (logs / f"{name.replace(' ', '_')}.log").open("w") as stream:
                running[name] = subprocess.Popen(words, cwd=HERE, env=environment, stdout=stream, stderr=stream)
            ready = Path(folder) / f"{name.replace(' ', '_')}.0.ready"
            while not ready.exists():  # one after the other: Ray does not start on a machine that is too busy
                if running[name].poll() is not None:
                    raise SystemExit(f"{name} did not start; see {logs}")
                time.sleep(0.1)

        def part(name: str, part_name: str) -> dict[str, float]:
            base = Path(folder) / f"{name.replace(' ', '_')}.{part_name}"
            before, begun = cpu_seconds(running[name].pid), time.perf_counter()
            base.with_name(base.name + ".go").touch()
            done = base.with_name(base.name + ".done")
            while not done.exists():
                if running[name].poll() is not None:
                    raise SystemExit(f"{name} ended early; see {logs}")
                time.sleep(turnstile.POLL)
            return {"wall": time.perf_counter() - begun, "cpu": cpu_seconds(running[name].pid) - before}

        for index in range(total - 1):
            for name in contestants:
                figures = {"round": part(name, str(index))}
                if name in evaluated:
                    figures["evaluation"] = part(name, f"{index}-evaluation")
                if index:
                    times[name].append(figures)
                print(index, name, json.dumps(figures), file=sys.stderr, flush=True)
            if index:
                print(table(times, evaluated, chosen.steps), flush=True)
        for name in contestants:  # the last round of all, uncounted
            for ending in (str(total - 1), f"{total - 1}-evaluation"):
                (Path(folder) / f"{name.replace(' ', '_')}.{ending}.go").touch()
        for process in running.values():
            process.wait(timeout=1800)


if __name__ == "__main__":
    main()
