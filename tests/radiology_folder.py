"""A made-up folder in the shape of VQA-RAD and MedQuAD: pictures of one colour, questions about invented diseases."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fs_fedmllm.data.vqa_rad import OFFICIAL

ORGANS = ("HEAD", "CHEST", "ABD")
ASKED = {
    "treatment": "What are the treatments for {} ?",
    "frequency": "How many people are affected by {} ?",
    "inheritance": "Is {} inherited ?",
    "outlook": "What is the outlook for {} ?",
    "causes": "What causes {} ?",
}


def rad(number: int, image: str, organ: str, **change: Any) -> dict[str, Any]:
    """One row of VQA-RAD."""
    row = {
        "qid": number,
        "phrase_type": "freeform" if number % 3 else "test_freeform",
        "image_name": image,
        "image_organ": organ,
        "question": "Is it normal?",
        "question_type": "ABN",
        "answer": "Yes",
        "answer_type": "CLOSED",
    }
    return row | change


def write_folder(root: Path, pictures: int, diseases: int = 60) -> Path:
    """``pictures`` of each organ and questions of five kinds about ``diseases``; returns the folder."""
    from PIL import Image

    folder = root / "vqa_rad" / "VQA_RAD Image Folder"
    folder.mkdir(parents=True)
    rows = []
    for number in range(3 * pictures):
        organ = ORGANS[number % 3]
        colour = [(200, 30, 30), (30, 200, 30), (30, 30, 200)][number % 3]
        Image.new("RGB", (8, 8), (colour[0], colour[1], (colour[2] + number) % 256)).save(folder / f"p{number}.png")
        rows.append(rad(number, f"p{number}.png", organ))
    (root / "vqa_rad" / OFFICIAL).write_text(json.dumps(rows, indent=1))
    (root / "medquad").mkdir()
    lines = [
        {"input": asked.format(f"ailment {n}"), "output": "It depends.", "qtype": kind, "focus": f"ailment {n}"}
        for n in range(diseases)
        for kind, asked in ASKED.items()
    ]
    (root / "medquad" / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return root


def change_rows(root: Path, change: Any) -> None:
    """Apply ``change`` to the list of VQA-RAD's rows."""
    file = root / "vqa_rad" / OFFICIAL
    rows = json.loads(file.read_text())
    file.write_text(json.dumps(change(rows) or rows, indent=1))
