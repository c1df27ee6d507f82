"""A small task of real pictures for real models: which part of the body is it? Rows of VQA-RAD's pictures (CC0).

    python benchmarks/organs.py DATA/vqa_rad organs
    fs-fedmllm run organs/organs.yaml model.fedmllm.path real_base ...

Writes ``rows.jsonl`` (pictures of head, chest or abdomen, 60 of them for the test and 30 for validation, drawn by the
picture's name, so that they are the same everywhere), a template of three options, and a configuration.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from pathlib import Path

OPTIONS = {"HEAD": "head", "CHEST": "chest", "ABD": "abdomen"}
TEST, VALIDATION = 60, 30
TEMPLATE = """\
options: [head, chest, abdomen]
question: "Which part of the body does the picture show"
"""
CONFIG = """\
# Written by benchmarks/organs.py: four clients, two rounds of two of them, six steps of four rows.
data: {{type: own, root: {root}, splitter: fedmllm_aligned, splitter_args: [{{alpha: 5.0}}]}}
federate: {{method: FedAvg, client_num: 4, sample_client_num: 2, total_round_num: 2}}
train: {{local_update_steps: 6, optimizer: {{lr: 0.001}}}}
eval: {{freq: 2}}
model: {{fedmllm: {{image_tokens: 70, federated: [lora, projector]}}}}
fedmllm:
  data: {{template: template.yaml, file: rows.jsonl}}
  train: {{batch_size: 4}}
  eval: {{batch_size: 16, slices: never}}
"""


def main() -> None:
    """Write the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="the folder vqa_rad")
    parser.add_argument("out", type=Path)
    chosen = parser.parse_args()
    source = chosen.source.resolve()
    told = json.loads((source / "VQA_RAD Dataset Public.json").read_text())
    organs = {row["image_name"]: OPTIONS[row["image_organ"]] for row in told}
    (chosen.out / "images").mkdir(parents=True, exist_ok=True)
    names = sorted(organs, key=lambda name: hashlib.sha256(name.encode()).digest())
    with (chosen.out / "rows.jsonl").open("w") as stream:
        for place, name in enumerate(names):
            picture = chosen.out / "images" / name
            if not picture.exists():
                os.link(source / "VQA_RAD Image Folder" / name, picture)
            split = "test" if place < TEST else "val" if place < TEST + VALIDATION else "train"
            row = {"id": name, "image": f"images/{name}", "label": organs[name], "split": split}
            stream.write(json.dumps(row) + "\n")
    (chosen.out / "template.yaml").write_text(TEMPLATE)
    (chosen.out / "organs.yaml").write_text(CONFIG.format(root=chosen.out))


if __name__ == "__main__":
    main()
