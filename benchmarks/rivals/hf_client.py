"""A plain Hugging Face client: AutoModel, PEFT, a collator around the processor, and ``Trainer``.

Nothing of ours is imported, so that it runs in the rivals' own environments (but where a processor cannot be built
because torchvision is missing). It is what their examples show for a language model, with images.
"""

from __future__ import annotations

import functools
import json
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoProcessor, Trainer, TrainingArguments
from transformers.utils import logging

warnings.filterwarnings("ignore")
logging.set_verbosity_error()
logging.disable_progress_bar()
torch.set_num_threads(1)


@functools.cache
def read_plan(path: str) -> dict[str, Any]:
    """The plan of ``plan.py``."""
    return json.loads(Path(path).read_text())


def build(plan: dict[str, Any]) -> tuple[Any, Any]:
    """A PEFT model and its processor."""
    model = AutoModelForImageTextToText.from_pretrained(plan["model"])
    model.config.use_cache = False
    lora = plan["lora"]
    config = LoraConfig(
        r=lora["r"], lora_alpha=lora["alpha"], lora_dropout=lora["dropout"], target_modules=lora["target"],
        bias="none", task_type="CAUSAL_LM",
    )  # fmt: skip
    adapted = get_peft_model(model, config)
    set_peft_model_state_dict(adapted, load_file(plan["adapter"]))
    return adapted, read_processor(plan)


def read_processor(plan: dict[str, Any]) -> Any:
    """The model's processor, which shows images as the plan says, whoever calls it."""
    try:
        processor = AutoProcessor.from_pretrained(plan["model"])
    except (ImportError, ValueError):  # of a family with videos, where there is no torchvision
        from fs_fedmllm.models.torchvision import images_without_torchvision

        with images_without_torchvision():
            processor = AutoProcessor.from_pretrained(plan["model"])
    if plan["image_arguments"]:  # some classes have defaults that no file overrides
        kwargs = type(processor).valid_processor_kwargs
        kwargs._defaults.setdefault("images_kwargs", {}).update(plan["image_arguments"])
    return processor


def _chat(processor: Any, row: dict[str, Any]) -> tuple[str, str]:
    """The conversation up to the answer, and what the template writes from there on."""
    content = [{"type": "image"}] * (row["image"] is not None) + [{"type": "text", "text": row["prompt"]}]
    asked = [{"role": "user", "content": content}]
    told = [*asked, {"role": "assistant", "content": [{"type": "text", "text": row["answer"]}]}]
    prompt = processor.apply_chat_template(asked, add_generation_prompt=True, tokenize=False)
    whole = processor.apply_chat_template(told, tokenize=False)
    completion = whole[len(prompt) :] if whole.startswith(prompt) else row["answer"]
    eos = processor.tokenizer.eos_token
    return prompt, completion if eos in completion else completion + eos


def _inputs(processor: Any, rows: list[dict[str, Any]], answered: bool) -> dict[str, torch.Tensor]:
    images = [Image.open(row["image"]).convert("RGB") for row in rows if row["image"] is not None]
    texts = ["".join(_chat(processor, row)[: 1 + answered]) for row in rows]
    return dict(
        processor(
            text=texts, images=images or None, padding=True, return_tensors="pt", add_special_tokens=False,
        )
    )  # fmt: skip


class Collator:
    """Rows to a left-padded batch with labels on the answers; the processor at every step, as in HF's examples."""

    def __init__(self, processor: Any):
        self.processor = processor

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        inputs = _inputs(self.processor, rows, answered=True)
        labels = torch.full_like(inputs["input_ids"], -100)
        for i, row in enumerate(rows):
            completion = _chat(self.processor, row)[1]
            count = len(self.processor.tokenizer(completion, add_special_tokens=False)["input_ids"])
            labels[i, -count:] = inputs["input_ids"][i, -count:]
        return {**inputs, "labels": labels}


class InOrder(Trainer):
    """``Trainer`` that takes the planned rows in the planned order, so that all contestants see the same batches."""

    def _get_train_sampler(self, *_: Any, **__: Any) -> Any:
        return torch.utils.data.SequentialSampler(self.train_dataset)


def train(model: Any, processor: Any, plan: dict[str, Any], round_index: int, client: str, *, micro: int) -> float:
    """A client's turn: a new ``Trainer``, as many optimizer steps as planned.

    Args:
        model: the PEFT model, trained in place.
        processor: its processor.
        plan: from :func:`read_plan`.
        round_index: the round.
        client: the client's id.
        micro: rows in a forward pass; the effective batch is the plan's.

    Returns:
        The turn's mean loss.
    """
    turn, rows = plan["rounds"][round_index][client], plan["clients"][client]
    arguments = TrainingArguments(
        output_dir=tempfile.gettempdir(), per_device_train_batch_size=micro,
        gradient_accumulation_steps=plan["batch_size"] // micro, max_steps=len(turn["batches"]),
        learning_rate=turn["lr"], lr_scheduler_type="constant", weight_decay=0.1, adam_beta2=0.95, max_grad_norm=1.0,
        report_to=[], save_strategy="no", logging_strategy="no", disable_tqdm=True, remove_unused_columns=False,
        use_cpu=True, dataloader_pin_memory=False,
    )  # fmt: skip
    dataset = [rows[i] for batch in turn["batches"] for i in batch]
    trainer = InOrder(model=model, args=arguments, train_dataset=dataset, data_collator=Collator(processor))
    return float(trainer.train().training_loss)


def generate_one_by_one(model: Any, processor: Any, rows: list[dict[str, Any]]) -> list[str]:
    """The authors' evaluation: up to 32 tokens, sampled, one row at a time."""
    model.eval()
    answers = []
    for row in rows:
        inputs = _inputs(processor, [row], answered=False)
        with torch.no_grad():
            output = model.generate(
                **inputs, max_new_tokens=32, do_sample=True, temperature=0.7, top_p=0.8, top_k=100,
                repetition_penalty=1.05, use_cache=True,
            )  # fmt: skip
        answers.append(processor.tokenizer.decode(output[0, inputs["input_ids"].shape[1] :]))
    return answers
