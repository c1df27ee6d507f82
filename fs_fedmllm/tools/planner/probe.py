"""The two-step probe: the first two steps of the run, its heaviest step, and the shortest, middling and longest
evaluation batch, and the longest of every further test set, in a process of its own.

Where that takes little time the probe goes on through the run's first turns: batches of many lengths leave a heap that
is larger than any one of them needs, and with a small model that is a large part of a run's memory.

The base is loaded as the run would load it, so this is the one part of a plan that is heavy. It writes nothing.
"""

from __future__ import annotations

import functools
import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from fs_fedmllm.config import Config, from_mapping, read_yaml, to_mapping
from fs_fedmllm.data.sample import Sample
from fs_fedmllm.errors import FedMLLMError

#: CPU time after which training does not go on for the sake of the heap.
SECONDS = 20.0


def probe(config: Config) -> dict[str, Any]:
    """Run the probe in a fresh process.

    Returns:
        ``peak_bytes`` above the imports (and ``device_peak_bytes`` on an accelerator), each with the features of the
        images that the run reads and the probe did not; ``load_seconds``, ``image_seconds`` (reading an image and
        running the vision tower), ``step_seconds`` (the heaviest step, when it is done again), ``scored_seconds`` (a
        row of an evaluation), ``set_scored_seconds`` (the same of each further test set, by its name),
        ``turn_seconds`` (a turn beside its steps).

    Raises:
        FedMLLMError: the probe failed; its last line says why.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "plan.yaml"
        file.write_text(yaml.safe_dump(to_mapping(config)), encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-m", "fs_fedmllm.tools.planner.probe", str(file)],
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise FedMLLMError(f"The probe ended with code {done.returncode}: {lines[-1]}")
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def measure(config: Config) -> dict[str, Any]:
    """The probe itself, in this process."""
    from fs_fedmllm.tools.planner.measure import import_everything, peak

    imports = import_everything(config)
    import torch

    from fs_fedmllm.aggregators import RunningMean
    from fs_fedmllm.models.export import write_adapter
    from fs_fedmllm.rounds.client_update import ClientUpdate
    from fs_fedmllm.rounds.federation import Federation
    from fs_fedmllm.rounds.in_flight import planned_rounds
    from fs_fedmllm.rounds.server import Round, initial
    from fs_fedmllm.rounds.trainer import UpdatePlan
    from fs_fedmllm.runs.checkpoint import RunState, save_checkpoint
    from fs_fedmllm.runs.run_folder import RunFolder
    from fs_fedmllm.scenarios.federated_data import prepare_data
    from fs_fedmllm.tools.planner.work import count_work

    started = time.perf_counter()
    data = prepare_data(config)
    work = count_work(config, data)
    federation = Federation.build(config, data)
    loaded = time.perf_counter()
    device = federation.mllm.device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    params = federation.initial_state()
    optimizer = federation.optimizer
    server = initial(optimizer, params)
    recent = [{n: t.clone() for n, t in params.items()} for _ in range(config.fedmllm.average_last)]
    kept = (
        max((r.versions for r in planned_rounds(config, work.presence)), default=0)
        if config.fedmllm.async_.buffer
        else 0
    )
    versions = {index: {n: t.clone() for n, t in params.items()} for index in range(kept)}
    state = RunState(0, params, server, dict(params), recent=recent, versions=versions)
    encoder, some_client = federation.encoder, min(data.clients)

    def timed(action: Any) -> float:
        begun = time.perf_counter()
        action()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - begun

    rows = [row for batch in (*work.heaviest, *work.longest) for row in batch]
    images = len({row.image for row in rows if row.image is not None})
    encoding = timed(lambda: encoder.encode(rows))
    federation.mllm.adapter.load(state.params)
    for part in work.scored_parts:
        federation.evaluator.evaluate(part)
    scoring = [timed(lambda part=part: federation.evaluator.evaluate(part)) / len(part) for part in work.longest]
    of_sets: dict[str, float] = {}
    for name, parts in work.longest_sets.items():
        evaluator = federation.test_sets[name]
        evaluator.encoder.encode([row for part in parts for row in part])  # images are counted apart
        of_sets[name] = max(timed(functools.partial(evaluator.evaluate, part)) / len(part) for part in parts)
    message = federation.server.message(state.params, state.server)
    received = {name: message[name].float() for name in state.params}
    current = Round(0, [some_client], message, received, RunningMean(received))
    steps: list[float] = []

    def update(batches: Sequence[Sequence[Sample]]) -> None:
        start, halves = federation.clients.begin(some_client, message, {})
        flat = [row for batch in batches for row in batch]
        starts = list(itertools.accumulate((len(batch) for batch in batches), initial=0))
        indices = [list(range(a, b)) for a, b in itertools.pairwise(starts)]
        encoded = dict(enumerate(encoder.encode(flat)))
        trained, log = federation.trainer.fit(start, encoded, UpdatePlan(indices, lr=1e-5, halves=halves))
        steps.append(log.seconds / len(batches))
        if optimizer is not None:
            federation.server.take(current, ClientUpdate(len(steps), len(rows), trained, log))

    begun = time.process_time()
    update(work.first[0][:2])
    whole = heavy = 0.0
    for batch in work.heaviest:
        update([batch])
        taken = timed(lambda batch=batch: update([batch]))
        whole, heavy = max((whole, heavy), (taken, steps[-1]))
    for batches in work.first:
        if time.process_time() - begun > SECONDS:
            break
        update(batches)
    if optimizer is not None:
        state.params, state.server = federation.server.step(current, state.params, state.server)
    # What a session does beside: events, a checkpoint, the adapters' files.
    with tempfile.TemporaryDirectory() as scratch:
        folder = RunFolder(Path(scratch), config)
        folder.record("round", 0, {"seconds": 0.0})
        save_checkpoint(Path(scratch) / "checkpoint", state, "probe")
        write_adapter(Path(scratch) / "adapter", federation.mllm, state.params)
        folder.close()
    federation.mllm.adapter.load(state.params)
    for part in (*work.scored_parts, *work.longest):
        federation.evaluator.evaluate(part)
    for name, parts in work.longest_sets.items():
        for part in parts:
            federation.test_sets[name].evaluate(part)
    vision = encoder.vision
    rest = max(0, vision.expected_bytes(work.images) - vision.bytes) if vision is not None else 0
    figures: dict[str, Any] = {
        "peak_bytes": peak() - imports + rest,
        "load_seconds": loaded - started,
        "image_seconds": encoding / max(1, images),
        "step_seconds": heavy,
        "turn_seconds": max(0.0, whole - heavy),
        "scored_seconds": max(scoring),
        "set_scored_seconds": of_sets,
    }
    if device.type == "cuda":
        figures["device_peak_bytes"] = torch.cuda.max_memory_allocated(device) + rest
    return figures


def main(argv: list[str]) -> int:
    """Run as ``python -m fs_fedmllm.tools.planner.probe CONFIG``; the last line of the output is JSON."""
    try:
        figures = measure(from_mapping(read_yaml(Path(argv[0]))))
    except FedMLLMError as error:
        print(str(error), file=sys.stderr)
        return 2
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
