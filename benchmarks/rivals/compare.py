"""A round of ours beside a round of TRL's loop, the authors' loop, Flower and NVFlare, alternating in one run.

    python benchmarks/rivals/compare.py --flower VENV/bin/python --nvflare VENV/bin/python [--rounds 5] [--steps 6]
    python benchmarks/rivals/compare.py --model FOLDER --config FILE [--without NAME ...] [key value ...]

Each environment needs torch, transformers and peft of the versions here, and ``flwr[simulation]`` or ``nvflare``. A
contestant without an environment is left out. All get the same plan (model, LoRA, rows, batches, rates, adapter to
begin with). Printed are medians over the rounds after a first one that is not counted, as wall time and as CPU time of
the contestant with all of its processes; the ratios of CPU time hold on a busy machine too. Memory is the most that
each of its processes ever had, added up; pages that forked processes share count in each.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Mapping
from pathlib import Path

import turnstile
from plan import PRESET

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


def _family(root: int, processes: Mapping[int, tuple[int, float]]) -> set[int]:
    family = {root}
    for _ in range(16):  # generations
        family |= {pid for pid, (parent, _) in processes.items() if parent in family}
    return family & set(processes)


def cpu_seconds(root: int) -> float:
    """CPU time of a process and of all below it."""
    processes = _processes()
    return sum(processes[pid][1] for pid in _family(root, processes))


def peak_mib(root: int) -> float:
    """The most memory that a process and those below it ever had, each by itself, added up."""
    total = 0
    for pid in _family(root, _processes()):
        with contextlib.suppress(OSError, IndexError):
            total += int((Path("/proc") / str(pid) / "status").read_text().split("VmHWM:")[1].split()[0])
    return total / 1024


def table(times: Times, evaluated: Collection[str], about: str, memory: Mapping[str, float]) -> str:
    """The medians as Markdown."""

    def median(name: str, what: str, clock: str) -> float:
        return statistics.median(figures[what][clock] for figures in times[name])

    first = next(iter(times))
    lines = [
        f"medians of {len(times[first])} alternating rounds: {about}",
        "| contestant | round, wall s | round, CPU s | CPU / ours | MiB | evaluation, CPU s | both, CPU / ours |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in times:
        wall, cpu = median(name, "round", "wall"), median(name, "round", "cpu")
        cells = [name, f"{wall:.2f}", f"{cpu:.2f}", f"{cpu / median(first, 'round', 'cpu'):.2f}"]
        cells += [f"{memory[name]:.0f}", "", ""]
        if name in evaluated:
            evaluation = median(name, "evaluation", "cpu")
            both = median(first, "round", "cpu") + median(first, "evaluation", "cpu")
            cells[5:] = [f"{evaluation:.2f}", f"{(cpu + evaluation) / both:.2f}"]
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
    parser.add_argument("--model", default="tiny", help="folder of a checkpoint")
    parser.add_argument("--config", type=Path, default=PRESET, help="configuration: rows, LoRA, rows of a step")
    parser.add_argument("--without", action="append", default=[], metavar="NAME", help="a contestant to leave out")
    parser.add_argument("--at-once", action="store_true", help="start them beside each other; Ray may not manage")
    parser.add_argument("--actors", default="2", help="Flower's clients in parallel, each with a model")
    parser.add_argument("words", nargs="*", help="key value pairs of the configuration")
    chosen = parser.parse_intermixed_args()
    contestants = {
        "ours, one process": [sys.executable, "ours.py", "PLAN", "1"],
        "ours, two workers": [sys.executable, "ours.py", "PLAN", "2"],
        "TRL's loop": [sys.executable, "trl_loop.py", "PLAN"],
        "authors' loop": [sys.executable, "authors.py", "PLAN"],
    }
    if chosen.flower:
        contestants["Flower, model per call"] = [chosen.flower, "flower.py", "PLAN", "call"]
        contestants["Flower, model kept"] = [chosen.flower, "flower.py", "PLAN", "actor"]
    if chosen.nvflare:
        contestants["NVFlare"] = [chosen.nvflare, "flare.py", "PLAN"]
    for name in chosen.without:
        if contestants.pop(name, None) is None:
            raise SystemExit(f"--without {name}: there are {', '.join(contestants)}.")
    evaluated = {"ours, one process", "ours, two workers", "authors' loop"} & set(contestants)

    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as ending:
        plan = Path(folder) / "plan.json"
        # One round first that is not counted, and one more, whose beginning ends NVFlare's last.
        total = chosen.rounds + 2
        subprocess.run(
            [sys.executable, HERE / "plan.py", plan, "--rounds", str(total), "--steps", str(chosen.steps),
             "--model", chosen.model, "--config", chosen.config, *chosen.words],
            check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        planned = json.loads(plan.read_text())
        about = (
            f"{len(planned['rounds'][0])} clients of {chosen.steps} steps of {planned['batch_size']} rows, "
            f"{len(planned['test'])} test rows"
        )
        logs = chosen.log or Path(folder)
        logs.mkdir(parents=True, exist_ok=True)
        running: dict[str, subprocess.Popen[bytes]] = {}
        times: Times = {name: [] for name in contestants}
        memory: dict[str, float] = {}

        def wait_for(name: str) -> None:
            while not (Path(folder) / f"{name.replace(' ', '_')}.0.ready").exists():
                if running[name].poll() is not None:
                    raise SystemExit(f"{name} did not start; see {logs}")
                time.sleep(0.1)

        for name, command in contestants.items():
            environment = {
                **os.environ,
                turnstile.FOLDER: folder,
                turnstile.NAME: name.replace(" ", "_"),
                "OMP_NUM_THREADS": "1",
                "HF_HUB_OFFLINE": "1",
                "RIVALS_ACTORS": chosen.actors,
                "RAY_raylet_start_wait_time_s": "600",
            }
            words = [str(plan) if word == "PLAN" else word for word in command]
            with (logs / f"{name.replace(' ', '_')}.log").open("w") as stream:
                running[name] = subprocess.Popen(words, cwd=HERE, env=environment, stdout=stream, stderr=stream)
            ending.callback(running[name].terminate)  # whoever is left where one of them fails
            if not chosen.at_once:
                wait_for(name)
        for name in contestants:
            wait_for(name)

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
                memory[name] = max(memory.get(name, 0.0), peak_mib(running[name].pid))
                if index:
                    times[name].append(figures)
                print(index, name, json.dumps(figures), file=sys.stderr, flush=True)
            if index:
                print(table(times, evaluated, about, memory), flush=True)
        (Path(folder) / f"NVFlare.{total - 1}.go").touch()  # its last round ended where this one begins
        for process in running.values():
            process.wait(timeout=1800)


if __name__ == "__main__":
    main()
