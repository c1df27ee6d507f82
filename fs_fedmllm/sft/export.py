"""Clients' rows as ``datasets`` folders that TRL's own ``sft`` script takes unchanged.

    trl sft --dataset_name exported/client_1 --model_name_or_path ... --use_peft ...

A client's folder holds ``train.parquet``; the folder ``server`` holds ``validation.parquet`` and ``test.parquet``.
Columns: ``prompt`` and ``completion`` as conversations, the finished prompt of the row's presence case and the run's
variant in it; ``images``, a list of one or none; ``id``, ``presence`` and ``kind``, which TRL leaves alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features, Image, List, Value

from fs_fedmllm.data.conversations import COMPLETION, PROMPT, conversation
from fs_fedmllm.data.images import image_bytes
from fs_fedmllm.data.sample import Sample
from fs_fedmllm.data.template import Template
from fs_fedmllm.files.atomic import beside, private_folder
from fs_fedmllm.models.completions import Completions
from fs_fedmllm.sft.rows import PRESENCE

#: Our names of splits -> those that ``datasets`` and TRL use.
SPLITS = {"train": "train", "val": "validation", "test": "test"}
#: Rows that are in memory at once, with their images.
BATCH = 64

_TURNS = List({"role": Value("string"), "content": Value("string")})
FEATURES = Features(
    {
        "id": Value("string"),
        PROMPT: _TURNS,
        COMPLETION: _TURNS,
        "images": List(Image()),
        PRESENCE: Value("string"),
        "kind": Value("string"),
    }
)


def write_split(folder: Path, split: str, samples: Sequence[Sample], template: Template, variant: str) -> Path:
    """Write rows as one Parquet file, which appears only when it is complete and is its owner's alone.

    Args:
        folder: made if it is not there.
        split: ``train``, ``val`` or ``test``.
        samples: what may be seen of each row.
        template: makes the prompts.
        variant: ``original`` or ``augmented``.

    Returns:
        The file.

    Raises:
        DataError: an image cannot be read (with its row).
    """
    private_folder(folder)
    path = folder / f"{SPLITS[split]}.parquet"
    schema = FEATURES.arrow_schema
    with beside(path, private=True) as part, pq.ParquetWriter(part, schema) as writer:
        for start in range(0, len(samples), BATCH):
            made = list(_rows(samples[start : start + BATCH], template, variant))
            writer.write_table(pa.Table.from_pylist(made, schema=schema))
    return path


def differences(completions: Completions, tokenizer: Any) -> list[str]:
    """What TRL's own script does otherwise with a model's template than a run here, in words that follow its name."""
    found = []
    if completions.appended is not None:
        end = tokenizer.convert_ids_to_tokens(completions.appended)
        found.append(f"teaches no end of an answer, since the chat template writes none; a run here appends {end}")
    if completions.lead:
        start = tokenizer.convert_ids_to_tokens(completions.lead[0])
        found.append(f"leaves out the {start} that the tokenizer puts before a conversation")
    return found


def _rows(samples: Sequence[Sample], template: Template, variant: str) -> Iterator[dict[str, Any]]:
    for sample in samples:
        images = []
        if sample.image is not None:
            where = sample.source or f"row {sample.id}"
            images.append({"bytes": image_bytes(sample.image, where), "path": None})
        said = conversation(sample, template, variant)
        yield {"id": sample.id, **said, "images": images, PRESENCE: sample.presence, "kind": sample.kind}
