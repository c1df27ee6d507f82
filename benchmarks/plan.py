"""How near a plan is to what is then measured: plan a run, run it, compare memory above the imports and bytes.

    python benchmarks/plan.py configs/cross_i3t7.yaml federate.total_round_num 2
    python benchmarks/plan.py --twin 512 8 configs/cross_i3t7.yaml ...   # a random model of 40 million parameters

Each part runs in a process of its own. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from fs_fedmllm import config as schema
from fs_fedmllm.models.loader import TINY


def make_twin(folder: Path, width: int, layers: int) -> None:
    """A random model of the embedded one's kind, wider and deeper, with its processor."""
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

    config = AutoConfig.from_pretrained(TINY)
    text = config.text_config
    text.hidden_size, text.intermediate_size, text.num_hidden_layers = width, 4 * width, layers
    text.num_attention_heads = text.num_key_value_heads = width // 64
    text.head_dim = 64
    torch.manual_seed(0)
    AutoModelForImageTextToText.from_config(config).save_pretrained(folder)
    AutoProcessor.from_pretrained(TINY).save_pretrained(folder)


def measured_run(words: list[str]) -> dict[str, int]:
    """The real run, in this process: peak above the imports, and the bytes that its results tell."""
    config = schema.load(words[0], words[1:])
    from fs_fedmllm.tools.planner.measure import import_everything, peak

    imports = import_everything(config)
    from fs_fedmllm.runs.simulation import run

    results, _ = run(config)
    return {
        "peak_bytes": peak() - imports,
        "imports_bytes": imports,
        "adapter_bytes": results["adapter_bytes"],
        "run_bytes": results["bytes_sent"],
    }


def compare(words: list[str], repeats: int) -> dict[str, dict[str, float]]:
    """Plan, probe, run, and put the figures side by side.

    The peak of a small process moves by a tenth from run to run with the allocator, so a median of repeats counts.
    """
    from fs_fedmllm.tools.planner.plan import make_plan

    config = schema.load(words[0], words[1:])
    counted = make_plan(config)
    assert not counted.problems, counted.problems
    script = [sys.executable, __file__, "--measure", *words]
    runs = []
    for _ in range(repeats):
        done = subprocess.run(script, capture_output=True, text=True, check=True)
        runs.append(json.loads(done.stdout.splitlines()[-1]))
        shutil.rmtree(config.outdir)  # the same command would only look at a finished run
    real = {name: statistics.median_low([run[name] for run in runs]) for name in runs[0]}
    figures = {
        "adapter_bytes": {"planned": counted.traffic["adapter_bytes"], "measured": real["adapter_bytes"]},
        "run_bytes": {"planned": counted.traffic["run_bytes"], "measured": real["run_bytes"]},
    }
    probed = [make_plan(config, with_probe=True) for _ in range(repeats)]
    assert not any(plan.problems for plan in probed), probed[0].problems
    figures["memory_after_probe"] = {
        "planned": statistics.median_low([plan.memory["peak_bytes"] for plan in probed]),
        "measured": real["peak_bytes"],
    }
    for entry in figures.values():
        entry["ratio"] = round(entry["planned"] / entry["measured"], 4)
    return figures


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--twin", nargs=2, type=int, metavar=("WIDTH", "LAYERS"))
    parser.add_argument("--measure", action="store_true", help="only run, in this process")
    parser.add_argument("--repeats", type=int, default=1, help="runs and probes whose median counts")
    parser.add_argument("words", nargs="+")
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measured_run(args.words)))
        return
    with tempfile.TemporaryDirectory() as folder:
        words = [*args.words, "outdir", f"{folder}/exp", "fedmllm.workers", "1"]
        if args.twin:
            make_twin(Path(folder) / "twin", *args.twin)
            words += ["model.fedmllm.path", f"{folder}/twin"]
        print(json.dumps(compare(words, args.repeats)))


if __name__ == "__main__":
    main()
