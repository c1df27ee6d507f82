"""A client's update with the base in float32, bfloat16 and NF4: seconds a step, memory, loss; and what a run reaches.

    python benchmarks/precisions.py --model FOLDER --config FILE [--steps 4] [key value ...]
    python benchmarks/precisions.py --model FOLDER --config FILE --run OUT [key value ...]
    python benchmarks/precisions.py --model ALIGNED --config FILE --named DATA [key value ...]

The three take turns in one process. Memory is that of the frozen base, and the most that an update takes beside it.
``--run`` makes the configuration's whole run in each precision, one after the other, into folders below ``OUT``, and
prints what its last evaluation found. ``--named`` asks an aligned base in each precision for the organ of 60 pictures
that it did not learn from, as ``scripts/align_real_base.py`` does (``DATA`` holds ``vqa_rad/``). What ``fs-fedmllm
plan --probe`` expects of this machine stands beside the first table.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from clocks import Seconds, alternating, measured

PRECISIONS = {
    "float32": ("model.fedmllm.dtype", "float32"),
    "bfloat16": ("model.fedmllm.dtype", "bfloat16"),
    "nf4": ("model.fedmllm.dtype", "float32", "model.fedmllm.quantization.type", "nf4"),
}


def _update(config: Any) -> tuple[Callable[[], float], float]:
    """A function that makes the first client's update and gives its mean loss, and the MiB of the frozen base."""
    from fs_fedmllm.rounds.federation import Federation
    from fs_fedmllm.scenarios.federated_data import prepare_data

    federation = Federation.build(config, prepare_data(config))
    rows = federation.data.clients[1]
    plan = federation.clients.plan(1, 0, len(rows))
    encoded = dict(zip(plan.rows, federation.encoder.encode([rows[i] for i in plan.rows]), strict=True))
    start, model = federation.initial_state(), federation.mllm.model
    held = sum(p.numel() * p.element_size() for p in model.parameters() if not p.requires_grad)
    return lambda: float(federation.trainer.fit(start, encoded, plan)[1].loss), held / 2**20


def _runs(load: Callable[..., Any], out: str, names: Sequence[str]) -> None:
    from fs_fedmllm.runs.simulation import run

    for name in names:
        results, _ = run(load(*PRECISIONS[name], "outdir", out, "expname", name))
        kept = {k: v for k, v in results["evaluations"][-1].items() if isinstance(v, int | float)}
        print(f"{name}: {kept}", flush=True)


def _named(load: Callable[..., Any], data: Path, names: Sequence[str]) -> None:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))
    import torch
    from align_asked import named

    from fs_fedmllm.data.radiographs import ORGANS, read_pictures
    from fs_fedmllm.data.template_file import build_template
    from fs_fedmllm.models.encoding import Encoder
    from fs_fedmllm.models.loader import load_mllm

    unseen = [picture for picture in read_pictures(data, data_set="precisions") if picture.part != "align"]
    asked = [p for organ in ORGANS for p in [u for u in unseen if u.organ == organ][:20]]
    template = build_template({"task": "vqa"}, "precisions", "precisions")
    for name in names:
        encoder = Encoder(load_mllm(load(*PRECISIONS[name]).model.fedmllm), template, "original", None)
        with torch.no_grad():
            share, (_, cpu), _ = measured(lambda encoder=encoder: named(encoder, asked))
        print(f"{name}: names {share * len(asked):.0f} of {len(asked)}; {cpu / len(asked):.2f} CPU s each", flush=True)


def main() -> None:
    """Measure, or run."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny", help="folder of a checkpoint")
    parser.add_argument("--config", type=Path, default=Path(__file__).resolve().parents[1] / "configs/cross_i3t7.yaml")
    parser.add_argument("--steps", type=int, default=4, help="optimizer steps of the update")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--run", metavar="OUT", help="make whole runs")
    parser.add_argument("--named", metavar="DATA", type=Path, help="ask an aligned base for organs")
    parser.add_argument("--without", action="append", default=[], choices=PRECISIONS, help="leave one out")
    parser.add_argument("words", nargs="*", help="key value pairs of the configuration")
    chosen = parser.parse_intermixed_args()
    from fs_fedmllm import config as schema

    def load(*words: str) -> Any:
        return schema.load(chosen.config, ["model.fedmllm.path", chosen.model, *chosen.words, *words])

    names = [name for name in PRECISIONS if name not in chosen.without]
    if chosen.run:
        return _runs(load, chosen.run, names)
    if chosen.named:
        return _named(load, chosen.named, names)
    steps = ("train.local_update_steps", str(chosen.steps))
    updates = {name: _update(load(*steps, *PRECISIONS[name])) for name in names}
    losses: dict[str, float] = {}
    beside: dict[str, float] = {}

    def timed(name: str) -> Callable[[int], Seconds]:
        def run(_: int) -> Seconds:
            losses[name], taken, beside[name] = measured(updates[name][0])
            return taken

        return run

    medians = alternating(chosen.repeats, {name: timed(name) for name in names})
    print("| base | step, wall s | step, CPU s | CPU / float32 | base, MiB | an update, MiB | loss |")
    print("|---|---|---|---|---|---|---|")
    for name, (wall, cpu) in medians.items():
        cells = [f"{wall / chosen.steps:.2f}", f"{cpu / chosen.steps:.2f}", f"{cpu / medians[names[0]][1]:.2f}"]
        cells += [f"{updates[name][1]:.0f}", f"{beside[name]:.0f}", f"{losses[name]:.4f}"]
        print("| " + " | ".join([name, *cells]) + " |", flush=True)
    from fs_fedmllm.tools.planner.precisions import compared

    print("plan expects:", compared(load()))


if __name__ == "__main__":
    main()
