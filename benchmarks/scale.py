"""Time and memory against clients, samples, adapter size and options: what grows, and what must not.

    python benchmarks/scale.py measure FILE [--only clients]   each axis in a process of its own
    python benchmarks/scale.py plot FILE                       scale.png and scale.svg beside this file, and a table

A point: two sampled clients a round, one step of 8 rows, the rows of the embedded triage task repeated as often as
needed. Time is CPU time (the machine may be busy), the median over rounds after the first; growth is live tensors and
resident memory from after the model was loaded to the end (the latter only where a process has no earlier point, so
it is measured and not shown).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PRESET = HERE.parent / "configs" / "cross_i3t7.yaml"
ROUNDS = 5
#: Axis -> its values; the others stay at BASE.
AXES = {
    "clients": (10, 100, 1000),
    "rows": (1000, 10_000, 100_000),
    "rank": (4, 16, 64, 256),
    "options": (2, 8, 26),
    "clients with int4": (10, 100, 1000),
}
BASE = {"clients": 10, "rows": 2000, "rank": 8, "options": 8}


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _tensors() -> int:
    import gc

    import torch

    gc.collect()
    seen = {}
    for thing in gc.get_objects():
        if issubclass(type(thing), torch.Tensor):
            storage = thing.untyped_storage()
            seen[storage.data_ptr()] = storage.nbytes()
    return sum(seen.values())


def _data(config: Any, rows: int, options: int) -> Any:
    """The triage task with its rows repeated, and with as many options."""
    from fs_fedmllm.data.registry import load_dataset
    from fs_fedmllm.data.template_file import load_template
    from fs_fedmllm.scenarios.build import apply_scenario
    from fs_fedmllm.scenarios.federated_data import FederatedData

    dataset = load_dataset(config.data.type, Path(config.data.root), {})
    template = load_template(dataset.template)
    names = tuple(f"desk {i}" for i in range(options))
    template = dataclasses.replace(template, options=names)

    def made(row: Any, copy: int) -> Any:
        label = (row.label or 0) % options
        return dataclasses.replace(row, id=f"{row.id}-{copy}", label=label, answer=template.answer(label))

    train = [made(dataset.train[i % len(dataset.train)], i // len(dataset.train)) for i in range(rows)]
    test = [made(row, 0) for row in dataset.test[:64]]
    dataset = dataclasses.replace(dataset, train=train, val=test[:16], test=test)
    split = apply_scenario("aligned", train, config.federate.client_num, None, 0, dataset=dataset.name)
    return FederatedData(dataset, template, dict(split.clients), split.manifest)


def point(axis: str, value: int) -> dict[str, float]:
    """One point, in this process."""
    from fs_fedmllm import config as schema
    from fs_fedmllm.rounds.federation import Federation
    from fs_fedmllm.runs.listener import Listener
    from fs_fedmllm.runs.run_folder import RunFolder
    from fs_fedmllm.runs.session import Session

    at = BASE | {axis.partition(" ")[0]: value}
    if axis.startswith("clients"):
        at["rows"] = max(at["rows"], 20 * value)
    words = ["federate.client_num", at["clients"], "federate.sample_client_num", 2, "train.local_update_steps", 1]
    words += ["data.splitter", "fedmllm_aligned", "data.splitter_args", "[{alpha: 5.0}]"]
    words += ["model.fedmllm.lora.r", at["rank"], "fedmllm.vision_cache.memory_mib", 8]
    words += ["fedmllm.train.batch_size", 8]
    if axis.endswith("int4"):
        words += ["fedmllm.compression.upload", "int4"]
    config = schema.load(PRESET, [str(word) for word in words])
    started = time.process_time()
    data = _data(config, at["rows"], at["options"])
    split = time.process_time() - started
    federation = Federation.build(config, data)
    federation.evaluator.evaluate(data.dataset.test[:2])  # what the first batch of all allocates
    tensors, resident = _tensors(), _resident()
    times, rest = [], []
    with tempfile.TemporaryDirectory() as folder:
        session = Session(federation, RunFolder(Path(folder) / "run", config), Listener())
        if axis.endswith("int4"):  # as if every client had been drawn before
            residual = {f"compression/{name}": tensor for name, tensor in session.state.params.items()}
            session.state.clients = {
                client: {name: tensor.clone() for name, tensor in residual.items()} for client in data.clients
            }
        for _ in range(ROUNDS):
            begun = time.process_time()
            clients = session.begin_round().clients
            training = 0.0
            for client in clients:
                before = time.process_time()
                update = federation.clients.update(client, session.state.round, session.message)
                training += time.process_time() - before
                session.take(update)
            session.end_round(len(clients))
            session.checkpoint()
            times.append(time.process_time() - begun)
            rest.append(times[-1] - training)
        before = time.process_time()
        federation.evaluator.evaluate(data.dataset.test)
        evaluation = time.process_time() - before
        del update
        return {
            "split_s": split,
            "round_s": statistics.median(times[1:]),
            "rest_s": statistics.median(rest[1:]),
            "evaluation_s": evaluation,
            "tensors_mb": (_tensors() - tensors) / 1e6,
            "resident_mb": (_resident() - resident) / 1e6,
            "adapter_mb": session.adapter_size / 1e6,
        }


def measure(file: Path, only: str) -> None:
    """Every point that the file does not have yet."""
    found: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    for axis, values in AXES.items():
        missing = [str(value) for value in values if f"{axis}={value}" not in found]
        if not missing or only not in ("", axis):
            continue
        command = [sys.executable, __file__, "points", axis, *missing]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            for value, line in zip(missing, process.stdout or (), strict=False):
                found[f"{axis}={value}"] = json.loads(line)
                file.write_text(json.dumps(found, indent=1) + "\n")
                print(axis, value, line.strip(), flush=True)


def plot(file: Path) -> None:
    """Two rows of panels, time and memory, one column per axis; and the table."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    found = json.loads(file.read_text())
    axes = [axis for axis in AXES if any(key.startswith(f"{axis}=") for key in found)]
    figure, panels = plt.subplots(2, len(axes), figsize=(3.1 * len(axes), 5.6), sharey="row", squeeze=False)
    lines = {
        "round_s": "a round",
        "rest_s": "a round less its client updates",
        "evaluation_s": "evaluation of 64 rows",
    }
    # Resident memory is not here: it grows at a process's first point and says little after it.
    memory = {"tensors_mb": "live tensors", "adapter_mb": "one adapter"}
    print("| axis | value | " + " | ".join([*lines.values(), *memory.values()]) + " | reading and dealing |")
    print("|---" * (3 + len(lines) + len(memory)) + "|")
    for column, axis in enumerate(axes):
        points = [(value, found[f"{axis}={value}"]) for value in AXES[axis] if f"{axis}={value}" in found]
        values = [value for value, _ in points]
        for row, shown in enumerate((lines, memory)):
            panel = panels[row][column]
            for name, label in shown.items():
                panel.plot(values, [max(p[name], 1e-3) for _, p in points], marker="o", markersize=4, label=label)
            panel.set_xscale("log")
            panel.set_yscale("log")
            panel.set_xticks(values, [f"{v:,}" for v in values], rotation=0)
            panel.minorticks_off()
            panel.grid(alpha=0.3)
            if row == 1:
                panel.set_xlabel(axis)
            if column == 0:
                panel.set_ylabel(("CPU time, s", "growth after the model, MB")[row])
        for value, p in points:
            cells = [f"{p[name]:.3f} s" for name in lines] + [f"{p[name]:.1f} MB" for name in memory]
            print(f"| {axis} | {value:,} | {' | '.join(cells)} | {p['split_s']:.1f} s |")
    for row in range(2):
        handles, labels = panels[row][0].get_legend_handles_labels()
        panels[row][-1].legend(handles, labels, fontsize=7, loc="best")
    figure.suptitle("Two sampled clients a round, one step of 8 rows, embedded model", fontsize=10)
    figure.tight_layout()
    for ending in ("png", "svg"):
        figure.savefig(HERE / f"scale.{ending}", dpi=130)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if sys.argv[1:2] == ["points"]:
        for word in sys.argv[3:]:
            print(json.dumps(point(sys.argv[2], int(word))), flush=True)
    else:
        parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("what", choices=("measure", "plot"))
        parser.add_argument("file", type=Path)
        parser.add_argument("--only", default="", choices=("", *AXES))
        chosen = parser.parse_args()
        measure(chosen.file, chosen.only) if chosen.what == "measure" else plot(chosen.file)
