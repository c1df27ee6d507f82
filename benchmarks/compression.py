"""What compressed updates cost in accuracy and save in bytes: 20 rounds of the main job over three seeds.

python benchmarks/compression.py run FOLDER      each cell once; the same command goes on where it stopped
python benchmarks/compression.py table FOLDER    the table, as Markdown
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path

from kept_cells import cell_file, command, kept_cells

PRESET = Path(__file__).resolve().parent.parent / "configs" / "cross_i3t7.yaml"
SEEDS = (0, 1, 2)
#: Name -> command-line words.
UPLOAD, DOWNLOAD = "fedmllm.compression.upload", "fedmllm.compression.download"
KINDS = {
    "float32": [],
    "int8": [UPLOAD, "int8"],
    "int4": [UPLOAD, "int4"],
    "int4, bfloat16 download": [UPLOAD, "int4", DOWNLOAD, "bfloat16"],
    "int4 without error feedback": [UPLOAD, "int4", "fedmllm.compression.error_feedback", "False"],
    "bfloat16": [UPLOAD, "bfloat16"],
}


def run_cells(folder: Path) -> None:
    """Every cell of the table that is not there yet."""
    from fs_fedmllm import config as schema
    from fs_fedmllm.runs.simulation import run

    for kind, words in KINDS.items():
        for seed in SEEDS:
            cell = cell_file(folder, kind, seed)
            if cell.is_file():
                continue
            common = ["seed", str(seed), "federate.total_round_num", "20", "eval.freq", "20"]
            common += ["fedmllm.eval.zero_shot", "False"]
            common += ["fedmllm.eval.slices", "never", "fedmllm.workers", "1", "outdir", str(folder / "runs")]
            results, _ = run(schema.load(PRESET, [*common, "expname", cell.stem, *words]))
            last = results["evaluations"][-1]
            kept = {"kind": kind, "seed": seed, "bytes_sent": results["bytes_sent"], "final": last}
            cell.write_text(json.dumps(kept) + "\n")
            print(cell.stem, last["test_macro_f1"], results["bytes_sent"], flush=True)


def table(folder: Path) -> None:
    """Mean and range over the seeds."""
    cells = kept_cells(folder)
    full = {cell["seed"]: cell for cell in cells if cell["kind"] == "float32"}
    print("| what is sent | seeds | test macro F1 | lowest, highest | less float32, by seed | bytes | times fewer |")
    print("|---|---|---|---|---|---|---|")
    for kind in KINDS:
        mine = [cell for cell in cells if cell["kind"] == kind]
        if not mine:
            continue
        scores = [cell["final"]["test_macro_f1"] for cell in mine]
        gaps = [
            f"{score - full[cell['seed']]['final']['test_macro_f1']:+.4f}"
            for score, cell in zip(scores, mine, strict=True)
            if cell["seed"] in full
        ]
        size = statistics.mean(cell["bytes_sent"] for cell in mine)
        fewer = statistics.mean(cell["bytes_sent"] for cell in full.values()) / size
        print(
            f"| {kind} | {len(mine)} | {statistics.mean(scores):.4f} | {min(scores):.4f}, {max(scores):.4f} "
            f"| {', '.join(gaps)} | {size / 1e6:.1f} MB | {fewer:.2f} |"
        )


if __name__ == "__main__":
    command(__doc__, run_cells, table)
