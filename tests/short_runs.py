"""Where the presets are, and the overrides that make one a run of seconds."""

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
CONFIGS = REPOSITORY / "configs"

#: A run of seconds: two rounds of two steps on the embedded model.
SHORT = [
    *("federate.total_round_num", "2", "train.local_update_steps", "2", "eval.freq", "2"),
    *("fedmllm.train.batch_size", "4", "fedmllm.eval.zero_shot", "False", "fedmllm.eval.slices", "never"),
    *("fedmllm.eval.limit", "16", "fedmllm.workers", "1"),
]
