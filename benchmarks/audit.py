"""What the membership test finds where it should: few rows, seen often, with and without differential privacy.

    python benchmarks/audit.py FOLDER

160 training rows of the embedded task, 4 clients that all take part, 4 rounds of 15 steps of 16 rows: a client sees
each of its rows some twenty times. Held out are the validation and test rows of the same data set. Prints what
``fs-fedmllm audit privacy`` prints, and the accuracy of both. Some minutes on one core.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from fs_fedmllm import config as schema
from fs_fedmllm.config import Config
from fs_fedmllm.data.sample import Dataset
from fs_fedmllm.runs import simulation
from fs_fedmllm.scenarios import federated_data
from fs_fedmllm.tools.audit.membership import audit, told

ROWS = 160
DP = "fedmllm.privacy.dp."
WORDS = [
    *("federate.client_num", "4", "federate.sample_client_num", "4", "federate.total_round_num", "4"),
    *("train.local_update_steps", "15", "fedmllm.train.batch_size", "16", "data.splitter_args", "[{alpha: 5.0}]"),
    *("eval.freq", "4", "fedmllm.eval.zero_shot", "False", "fedmllm.eval.slices", "never", "fedmllm.workers", "1"),
]
PRIVATE = [DP + "clip_norm", "0.2", DP + "target_epsilon", "8", DP + "delta", "0.01"]


def main(folder: Path) -> None:
    """Both runs and their audits."""
    whole = federated_data._read

    def few(config: Config) -> Dataset:
        dataset = whole(config)
        return replace(dataset, train=dataset.train[:: len(dataset.train) // ROWS][:ROWS])

    federated_data._read = few
    for name, more in (("plain", []), ("private", PRIVATE)):
        words = [*WORDS, *more, "outdir", str(folder), "expname", name]
        preset = Path(__file__).parent.parent / "configs" / "aligned_a50.yaml"
        results, place = simulation.run(schema.load(preset, words))
        last = results["evaluations"][-1]
        print(told(audit(place.path)), f"test macro F1 {last['test_macro_f1']:.3f}", sep="\n", end="\n\n", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
