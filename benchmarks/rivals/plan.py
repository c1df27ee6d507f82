"""What every contestant is given: the same model, LoRA, rows, batches and rounds, as one JSON file.

    python benchmarks/rivals/plan.py plan.json --rounds 3 --steps 20 [--model FOLDER] [--config FILE] [key value ...]

A model is the folder of a checkpoint; the configuration decides rows, LoRA, rows of a step and the rest. Without
dropout (``model.fedmllm.lora.dropout 0``) contestants have the same losses, and not only the same work.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PRESET = Path(__file__).resolve().parents[2] / "configs" / "cross_i3t7.yaml"


def overrides(rounds: int, steps: int) -> list[str]:
    """The command-line words that make a configuration this benchmark."""
    return [
        *("federate.total_round_num", str(rounds), "train.local_update_steps", str(steps), "eval.freq", "1"),
        *("fedmllm.eval.zero_shot", "False", "fedmllm.eval.slices", "never", "fedmllm.eval.limit", "32"),
    ]


def _plain(target: Any) -> str | list[str]:
    return target if isinstance(target, str) else sorted(target)


def make(config_file: Path, rounds: int, steps: int, words: Sequence[str], adapter: Path) -> dict[str, Any]:
    """The plan: rows as prompts, image paths and answers; who trains on which of them in each round.

    Args:
        config_file: rows, LoRA, rows of a step and everything else.
        rounds: of the plan.
        steps: of a client's turn.
        words: overrides of the configuration.
        adapter: where the adapter is written that all begin with.
    """
    from fs_fedmllm import config as schema
    from fs_fedmllm.models.export import adapter_bytes
    from fs_fedmllm.models.loader import resolve_path
    from fs_fedmllm.rounds.federation import Federation
    from fs_fedmllm.scenarios.federated_data import prepare_data
    from fs_fedmllm.scenarios.judged import evaluated_rows

    config = schema.load(config_file, [*overrides(rounds, steps), *words])
    if tuple(config.model.fedmllm.federated) != ("lora",):
        raise SystemExit("The contestants train LoRA alone: model.fedmllm.federated '[lora]'.")
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
    adapter.write_bytes(adapter_bytes(federation.initial_state()))
    lora = config.model.fedmllm.lora
    target = federation.mllm.model.peft_config["default"].target_modules
    return {
        "config": str(config_file.resolve()),
        "words": list(words),
        "model": str(Path(resolve_path(config.model.fedmllm.path)).resolve()),
        "image_arguments": dict(federation.mllm.image_arguments),
        "adapter": str(adapter.resolve()),
        "lora": {"r": lora.r, "alpha": lora.alpha, "dropout": lora.dropout, "target": _plain(target)},
        "batch_size": config.fedmllm.train.batch_size,
        "steps": steps,
        "clients": {str(client): [told(row) for row in rows] for client, rows in data.clients.items()},
        "rounds": planned,
        "counted": rounds - 1,  # the last is NVFlare's alone, whose round ends where the next begins
        "test": [told(row) for row in evaluated_rows(config, data.dataset.test)],
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--config", type=Path, default=PRESET)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("words", nargs="*", help="key value pairs of the configuration")
    chosen = parser.parse_intermixed_args()
    words = ["model.fedmllm.path", chosen.model, *chosen.words]
    start = chosen.file.with_suffix(".safetensors")
    chosen.file.write_text(json.dumps(make(chosen.config, chosen.rounds, chosen.steps, words, start)))
