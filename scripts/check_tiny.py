"""Zero-shot figures of the tiny model on the triage test rows: format of its answers and macro F1.

python scripts/check_tiny.py fs_fedmllm/models/tiny
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from sklearn.metrics import accuracy_score, f1_score
from transformers import AutoModelForImageTextToText, AutoProcessor

from fs_fedmllm.data.digits import load_digits_dataset
from fs_fedmllm.data.sample import Sample
from fs_fedmllm.data.template import LETTERS
from fs_fedmllm.data.template_file import load_template


def inputs(processor: Any, rows: Sequence[Sample], ending: str = "") -> dict[str, torch.Tensor]:
    """Prompts of rows that show both inputs, padded on the left."""
    template = load_template("digits_triage")
    texts = []
    for row in rows:
        parts = [{"type": "image"}, {"type": "text", "text": template.prompt(row)}]
        message = [{"role": "user", "content": parts}]
        texts.append(processor.apply_chat_template(message, add_generation_prompt=True) + ending)
    images = []
    for row in rows:
        with Image.open(str(row.image)) as image:
            images.append(image.convert("RGB"))
    return dict(processor(text=texts, images=images, return_tensors="pt", padding=True, padding_side="left"))


@torch.inference_mode()
def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    folder = parser.parse_args().model
    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    template = load_template("digits_triage")
    letters = processor.tokenizer.convert_tokens_to_ids(list(LETTERS[: len(template.options)]))
    valid = {template.answer(label) for label in range(len(template.options))}
    well_formed, guesses, labels = 0, [], []
    with tempfile.TemporaryDirectory() as cache:
        rows = load_digits_dataset("digits_triage", Path(cache)).test
        for start in range(0, len(rows), 100):
            chunk = rows[start : start + 100]
            asked = inputs(processor, chunk)
            said = model.generate(**asked, max_new_tokens=8, do_sample=False)[:, asked["input_ids"].shape[1] :]
            answers = processor.batch_decode(said, skip_special_tokens=True)
            well_formed += sum(answer in valid for answer in answers)
            scores = model(**inputs(processor, chunk, "("), logits_to_keep=1).logits[:, -1, letters]
            guesses += scores.argmax(-1).tolist()
            labels += [row.label for row in chunk]
    print(f"answers in the format (X) name: {well_formed / len(rows):.1%} of {len(rows)}")
    print(f"forced choice: accuracy {accuracy_score(labels, guesses):.3f}, ", end="")
    print(f"macro F1 {f1_score(labels, guesses, average='macro', zero_division=0):.3f}")


if __name__ == "__main__":
    main()
