"""What a client's update saves: the vision cache, grouped passes, and a head over the answers alone.

    python benchmarks/savings.py [--model FOLDER|small|realistic] [--config FILE] [--steps 4] [key value ...]

One update on the same rows with all three, without each, and without any; they take turns in one process. Memory is
the most that an update takes beside the model. Losses are printed too: what is saved changes them by rounding alone.
Without ``--config`` rows are the embedded ones, half of them without their image, in passes of 4 of 16. ``--trl``
adds TRL's own trainer on the same rows (LoRA without dropout gives it the same losses). ``--profile`` says instead
where the time of an update goes, by torch's operators.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

from clocks import Seconds, alternating, measured, ratio
from random_model import SHAPES, write_model

PRESET = Path(__file__).resolve().parents[1] / "configs" / "cross_i3t7.yaml"
EMBEDDED = ("data.splitter", "fedmllm_missing", "data.splitter_args", "[{alpha: 5.0, beta: 0.5}]",
            "fedmllm.train.micro_batch_size", "4")  # fmt: skip


@dataclass(frozen=True)
class Variant:
    """Which of the three are on."""

    cache: bool = True
    grouped: bool = True
    answers: bool = True


VARIANTS = {
    "all three": Variant(),
    "no vision cache": Variant(cache=False),
    "passes as drawn": Variant(grouped=False),
    "head over all columns": Variant(answers=False),
    "none of them": Variant(cache=False, grouped=False, answers=False),
}


@contextlib.contextmanager
def _as(variant: Variant) -> Iterator[None]:
    """The package with some of it switched off."""
    from fs_fedmllm.models.mllm import MLLM
    from fs_fedmllm.rounds import lean_trainer

    def whole_head(self: Any, inputs: Mapping[str, Any], columns: int) -> Any:
        return self.inner(**inputs, use_cache=False).logits[:, -columns:]

    def as_drawn(rows: Any, indices: Any, micro: int) -> list[int]:
        return list(indices)

    with contextlib.ExitStack() as stack:
        if not variant.answers:
            stack.enter_context(mock.patch.object(MLLM, "last_logits", whole_head))
        if not variant.grouped:
            stack.enter_context(mock.patch.object(lean_trainer, "grouped", as_drawn))
        yield


def _update(config: Any) -> tuple[Callable[[Variant], float], int]:
    """A function that makes the update in a variant and gives its mean loss, and the client whose it is."""
    from fs_fedmllm.models.encoding import Encoder
    from fs_fedmllm.rounds.federation import Federation
    from fs_fedmllm.rounds.lean_trainer import LeanTrainer
    from fs_fedmllm.scenarios.federated_data import prepare_data

    federation = Federation.build(config, prepare_data(config))
    client = federation.sample_clients(0)[0]
    rows = federation.data.clients[client]
    plan = federation.clients.plan(client, 0, len(rows))
    ours = federation.encoder
    encoders = {True: ours, False: Encoder(federation.mllm, ours.template, ours.variant, None, ours.lengths)}
    start, made = federation.initial_state(), {}

    def run(variant: Variant) -> float:
        encoder = encoders[variant.cache]
        if variant.cache not in made:
            encoded = dict(zip(plan.rows, encoder.encode([rows[i] for i in plan.rows]), strict=True))
            made[variant.cache] = LeanTrainer(federation.mllm, encoder, config.fedmllm.train), encoded
        trainer, encoded = made[variant.cache]
        with _as(variant):
            return float(trainer.fit(start, encoded, plan)[1].loss)

    return run, client


def _trl(config_file: Path, steps: int, words: Sequence[str], client: int, folder: str) -> Callable[[], float]:
    """The same update by TRL's own trainer on a model of its own, as ``rivals/trl_loop.py`` makes it."""
    sys.path.insert(0, str(Path(__file__).resolve().parent / "rivals"))
    import hf_client
    import trl_loop
    from peft import set_peft_model_state_dict
    from plan import make
    from safetensors.torch import load_file

    plan = make(config_file, 1, steps, words, Path(folder) / "start.safetensors")
    model, processor = hf_client.build(plan)
    start = load_file(plan["adapter"])

    def run() -> float:
        set_peft_model_state_dict(model, start)
        return trl_loop.train(model, processor, plan, 0, str(client))

    return run


def main() -> None:
    """Measure."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny", help="tiny, a folder, realistic or small (random weights)")
    parser.add_argument("--config", type=Path)
    parser.add_argument("--steps", type=int, default=4, help="optimizer steps of the update")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--without", action="append", default=[], choices=VARIANTS, help="leave one out")
    parser.add_argument("--trl", action="store_true", help="TRL's own trainer too, as rivals/trl_loop.py")
    parser.add_argument("--profile", action="store_true", help="where the time of one update goes")
    parser.add_argument("words", nargs="*", help="key value pairs of the configuration")
    chosen = parser.parse_intermixed_args()
    from fs_fedmllm import config as schema

    with tempfile.TemporaryDirectory() as folder:
        path = chosen.model
        if path in SHAPES:
            path = folder
            print("random weights, in millions:", write_model(Path(folder), chosen.model, "float32"))
        words = [*(() if chosen.config else EMBEDDED), "train.local_update_steps", str(chosen.steps),
                 "model.fedmllm.path", path, *chosen.words]  # fmt: skip
        config = schema.load(chosen.config or PRESET, words)
        update, client = _update(config)
        if chosen.profile:
            from torch.profiler import ProfilerActivity, profile

            update(VARIANTS["all three"])
            with profile(activities=[ProfilerActivity.CPU]) as seen:
                update(VARIANTS["all three"])
            print(seen.key_averages().table(sort_by="self_cpu_time_total", row_limit=16, max_name_column_width=40))
            return
        names = [name for name in VARIANTS if name not in chosen.without]
        updates: dict[str, Callable[[], float]] = {name: partial(update, VARIANTS[name]) for name in names}
        if chosen.trl:
            updates["TRL's trainer"] = _trl(chosen.config or PRESET, chosen.steps, words, client, folder)
        losses: dict[str, float] = {}
        beside: dict[str, float] = {}

        def timed(name: str) -> Callable[[int], Seconds]:
            def run(repeat: int) -> Seconds:
                losses[name], taken, beside[name] = measured(updates[name])
                print(f"({name}: {taken[0]:.2f} s, {taken[1]:.2f} s of CPU time)", file=sys.stderr, flush=True)
                return taken

            return run

        medians = alternating(chosen.repeats, {name: timed(name) for name in updates})
        first = names[0]
        step = [second / chosen.steps for second in medians[first]]
        print(f"{first}: {step[0]:.2f} s a step in wall time, {step[1]:.2f} s in CPU time; an update of "
              f"{chosen.steps} steps of {config.fedmllm.train.batch_size} rows")  # fmt: skip
        for name in updates:
            print(f"{name}: {ratio(medians[name], medians[first])} of {first}; {beside[name]:.0f} MiB; "
                  f"loss {losses[name]:.5f}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
