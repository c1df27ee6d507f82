"""What every contestant is given: the same model, LoRA, rows, batches and rounds, as one JSON file.

python benchmarks/rivals/plan.py plan.json --rounds 3 --steps 20
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

PRESET = Path(__file__).resolve().parents[2] / "configs" / "cross_i3t7.yaml"


def overrides(rounds: int, steps: int) -> list[str]:
    """The command-line words that make the preset this benchmark."""
    return [
        *("federate.total_round_num", str(rounds), "train.local_update_steps", str(steps), "eval.freq", "1"),
        *("fedmllm.eval.zero_shot", "False", "fedmllm.eval.slices", "never", "fedmllm.eval.limit", "32"),
    ]


def _plain(target: Any) -> str | list[str]:
    return target if isinstance(target, str) else sorted(target)


def make(rounds: int, steps: int) -> dict[str, Any]:
    """The plan: rows as prompts, image paths and answers; who trains on which of them in each round."""
    from fs_fedmllm import config as schema
    from fs_fedmllm.models.loader import TINY
    from fs_fedmllm.rounds.federation import Federation
    from fs_fedmllm.scenarios.federated_data import prepare_data
    from fs_fedmllm.scenarios.judged import evaluated_rows

    config = schema.load(PRESET, overrides(rounds, steps))
    federation = Federation.build(config, prepare_data(config))
    data = federation.data

    def told(row: Any) -> dict[str, Any]:
        return {"prompt": data.template.prompt(row, "original"), "image": row.image, "answer": row.answer}

    planned = []
    for index in range(rounds):
        turns = {}
        for client in federation.sample_clients(index):
            plan = federation.clients.plan(client, index, len(data.clients[client]))
            turns[str(client)] = {"batches": plan.batches, "lr": plan.lr}
        planned.append(turns)
    lora = config.model.fedmllm.lora
    target = federation.mllm.model.peft_config["default"].target_modules
    return {
        "model": str(TINY),
        "lora": {"r": lora.r, "alpha": lora.alpha, "dropout": lora.dropout, "target": _plain(target)},
        "batch_size": config.fedmllm.train.batch_size,
        "steps": steps,
        "clients": {str(client): [told(row) for row in rows] for client, rows in data.clients.items()},
        "rounds": planned,
        "test": [told(row) for row in evaluated_rows(config, data.dataset.test)],
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20)
    chosen = parser.parse_args()
    chosen.file.write_text(json.dumps(make(chosen.rounds, chosen.steps)))
