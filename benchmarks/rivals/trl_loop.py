"""TRL's plain loop as a federated one: a new ``SFTTrainer`` for each client, PEFT's functions in and out.

RIVALS_FOLDER=... RIVALS_NAME=trl python benchmarks/rivals/trl_loop.py plan.json
"""

from __future__ import annotations

import sys
import tempfile
from typing import Any

import hf_client
import torch
import turnstile
from datasets import Dataset, Features, Image, List, Value
from peft import get_peft_model_state_dict, set_peft_model_state_dict
from trl import SFTConfig, SFTTrainer

_TURNS = List({"role": Value("string"), "content": Value("string")})
_FEATURES = Features({"prompt": _TURNS, "completion": _TURNS, "images": List(Image())})


class InOrder(SFTTrainer):
    """TRL's trainer that takes the planned rows in the planned order."""

    def _get_train_sampler(self, *_: Any, **__: Any) -> Any:
        return torch.utils.data.SequentialSampler(self.train_dataset)


def dataset(rows: list[dict[str, Any]]) -> Dataset:
    """Rows in TRL's conversational form."""
    told = [
        {
            "prompt": [{"role": "user", "content": row["prompt"]}],
            "completion": [{"role": "assistant", "content": row["answer"]}],
            "images": [row["image"]] if row["image"] is not None else [],
        }
        for row in rows
    ]
    return Dataset.from_list(told, features=_FEATURES)


def train(model: Any, processor: Any, plan: dict[str, Any], round_index: int, client: str) -> float:
    """A client's turn; gives its mean loss."""
    turn, rows = plan["rounds"][round_index][client], plan["clients"][client]
    arguments = SFTConfig(
        output_dir=tempfile.gettempdir(), per_device_train_batch_size=plan["batch_size"],
        max_steps=len(turn["batches"]), learning_rate=turn["lr"], lr_scheduler_type="constant", weight_decay=0.1,
        adam_beta2=0.95, max_grad_norm=1.0, report_to=[], save_strategy="no", logging_strategy="no",
        disable_tqdm=True, use_cpu=True, dataloader_pin_memory=False, max_length=None,
        gradient_checkpointing=False, bf16=False,
    )  # fmt: skip
    planned = dataset([rows[i] for batch in turn["batches"] for i in batch])
    trainer = InOrder(model=model, args=arguments, train_dataset=planned, processing_class=processor)
    return float(trainer.train().training_loss)


def main(plan_file: str) -> None:
    """Run the plan."""
    plan = hf_client.read_plan(plan_file)
    model, processor = hf_client.build(plan)
    state = {name: tensor.clone() for name, tensor in get_peft_model_state_dict(model).items()}
    for index, turns in enumerate(plan["rounds"][: plan["counted"]]):
        with turnstile.turn(str(index)):
            total: dict[str, torch.Tensor] = {}
            weights = {client: len(plan["clients"][client]) for client in turns}
            for client, weight in weights.items():
                set_peft_model_state_dict(model, state)
                print(index, client, train(model, processor, plan, index, client), flush=True)
                for name, tensor in get_peft_model_state_dict(model).items():
                    total[name] = total.get(name, 0) + tensor.clone() * (weight / sum(weights.values()))
            state = total


if __name__ == "__main__":
    main(*sys.argv[1:])
