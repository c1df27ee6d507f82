"""What privacy costs in accuracy: differential privacy at several epsilons and secure aggregation, on the digits.

    python benchmarks/privacy.py run [folder]     the runs, one after the other; finished ones are kept
    python benchmarks/privacy.py table [folder]   benchmarks/privacy.md from their results

Eight clients, all in every round: the noise on the mean falls with the number of clients. The adapter is kept small
(LoRA of rank 4 on queries and values), since noise grows with the root of the number of parameters.
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PRESET = HERE.parent / "configs" / "aligned_a10.yaml"
SEEDS = (1, 2, 3)
ROUNDS = 8
CLIP = 1.0

COMMON: dict[str, Any] = {
    "federate.client_num": 8,
    "federate.sample_client_num": 8,
    "federate.total_round_num": ROUNDS,
    "eval.freq": ROUNDS,
    "fedmllm.eval.zero_shot": False,
    "fedmllm.eval.slices": "never",
    "fedmllm.eval.limit": 200,
    "train.local_update_steps": 15,
    "fedmllm.train.batch_size": 8,
    "fedmllm.workers": 1,
    "fedmllm.checkpoint_every": 0,
    "model.fedmllm.lora.r": 4,
    "model.fedmllm.lora.alpha": 8,
    "model.fedmllm.lora.target": r".*(language_model|text_model)\.layers\.(\d+)\.self_attn\.(q_proj|v_proj)",
}
DP = "fedmllm.privacy.dp."
SECURE = {"fedmllm.privacy.secure_aggregation.enabled": True}
#: Name -> overrides. "clipped" has noise too small to matter and so no privacy: it shows what clipping alone costs.
RUNS: dict[str, dict[str, Any]] = {
    "none": {},
    "secure": SECURE,
    "clipped": {DP + "clip_norm": CLIP, DP + "noise_multiplier": 1e-4},
    "eps1000": {DP + "clip_norm": CLIP, DP + "target_epsilon": 1000},
    "eps1000_secure": {DP + "clip_norm": CLIP, DP + "target_epsilon": 1000, **SECURE},
    "eps100": {DP + "clip_norm": CLIP, DP + "target_epsilon": 100},
    "eps10": {DP + "clip_norm": CLIP, DP + "target_epsilon": 10},
}
SAID = {
    "none": "no privacy",
    "secure": "secure aggregation",
    "clipped": "clipping alone (epsilon above a million)",
    "eps1000": "epsilon 1000",
    "eps1000_secure": "epsilon 1000 and secure aggregation",
    "eps100": "epsilon 100",
    "eps10": "epsilon 10",
}


def run(folder: Path) -> None:
    """Run what is not there yet."""
    from fs_fedmllm import config as schema
    from fs_fedmllm.runs import simulation

    for seed in SEEDS:
        for name, words in RUNS.items():
            label = f"{name}_s{seed}"
            if (folder / label / "results.json").is_file():
                continue
            values = {**COMMON, **words, "seed": seed, "outdir": folder, "expname": label}
            config = schema.load(PRESET, [str(part) for pair in values.items() for part in pair])
            results, _ = simulation.run(config)
            print(label, {k: v for k, v in results["evaluations"][-1].items() if k.startswith("test")}, flush=True)


def table(folder: Path) -> str:
    """The results as Markdown."""
    rows = []
    for name in RUNS:
        files = [folder / f"{name}_s{seed}" / "results.json" for seed in SEEDS]
        found = [json.loads(file.read_text()) for file in files if file.is_file()]
        if not found:
            continue
        f1 = [100 * r["evaluations"][-1]["test_macro_f1"] for r in found]
        loss = [r["evaluations"][-1]["test_loss"] for r in found]
        dp = found[0].get("privacy", {}).get("differential_privacy")
        noise = f"{dp['noise_multipliers'][0]:.3g}" if dp and name != "clipped" else ""
        spread = f" ({min(f1):.1f} to {max(f1):.1f})" if len(f1) > 1 else ""
        rows.append(
            f"| {SAID[name]} | {noise} | {statistics.mean(f1):.1f}{spread} | {statistics.mean(loss):.3f} "
            f"| {len(found)} |"
        )
    head = "| | noise multiplier | test macro-F1, % | test loss | seeds |\n|---|---|---|---|---|\n"
    return head + "\n".join(rows) + "\n"


if __name__ == "__main__":
    where = Path(sys.argv[2]) if len(sys.argv) > 2 else HERE / "results" / "privacy"
    if sys.argv[1:2] == ["run"]:
        run(where)
    else:
        print(table(where), end="")
