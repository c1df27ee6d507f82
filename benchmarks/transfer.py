"""What an aligned base knows of pictures where nothing was trained: the organ, in the prompts of two tasks.

    python benchmarks/organs.py DATA/vqa_rad organs
    python benchmarks/transfer.py --model ALIGNED --data DATA --organs organs

The test rows of ``organs.py`` in the product's own form of a choice, whose question is among the alignment's held-out
ones; and those of ``real_triage`` in that task's prompt, with picture and question and with the picture alone. There
are three ways: by letters, which stand for nothing that the prompt says; by the words behind them (``head`` of ``head
treatment``); and by the letters when the prompt lists the options. Pictures that
the base was aligned on are counted apart.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import itertools
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

import torch
from align_rows import learnt_logits, pack

from fs_fedmllm.config import ModelOptions
from fs_fedmllm.data import real_triage
from fs_fedmllm.data.radiographs import ORGANS
from fs_fedmllm.data.sample import Sample
from fs_fedmllm.data.template import Template
from fs_fedmllm.data.template_file import load_template
from fs_fedmllm.evaluation.options import option_tokens
from fs_fedmllm.models.encoding import Encoder
from fs_fedmllm.models.loader import load_mllm


@torch.no_grad()
def chosen(ways: Mapping[str, tuple[Encoder, Sequence[str]]], row: Sample) -> dict[str, int]:
    """The likeliest answer of a row by each way, by the token in which the answers part ways.

    Args:
        ways: name -> encoder of the prompt, and the answers. Their prompts begin alike.
        row: what is asked.
    """
    rows, decisions = [], []
    for encoder, answers in ways.values():
        tokens = option_tokens([encoder.completion(answer) for answer in answers])
        [encoded] = encoder.encode([row], keep=False)
        rows.append(dataclasses.replace(encoded, completion=(*tokens.prefix, tokens.decisions[0])))
        decisions.append(list(tokens.decisions))
    first = next(iter(ways.values()))[0]
    logits = learnt_logits(first.mllm, pack(first, [rows]))
    ends = itertools.accumulate(len(encoded.completion) for encoded in rows)
    return {name: int(logits[end - 1][among].argmax()) for name, end, among in zip(ways, ends, decisions, strict=True)}


def _told(name: str, right: Sequence[bool]) -> None:
    print(f"{name}: {sum(right)} of {len(right)} ({sum(right) / max(1, len(right)):.3f})", flush=True)


def _organs(mllm: Any, folder: Path, learnt: set[str]) -> None:
    template = load_template(folder / "template.yaml")
    encoder = Encoder(mllm, template, "original", None)
    ways = {"letters": (encoder, [template.answer(i) for i in range(len(template.options))])}
    found: dict[bool, list[bool]] = {False: [], True: []}
    named = [0] * len(template.options)
    for line in (folder / "rows.jsonl").open(encoding="utf-8"):
        told = json.loads(line)
        if told["split"] != "test":
            continue
        path = folder / told["image"]
        label = template.options.index(told["label"])
        row = Sample(told["id"], str(path), None, template.answer(label), label=label)
        answer = chosen(ways, row)["letters"]
        named[answer] += 1
        found[hashlib.sha256(path.read_bytes()).hexdigest() in learnt].append(answer == label)
    _told("organs.py, all test rows", found[False] + found[True])
    _told("organs.py, pictures that were not learnt from", found[False])
    print(f"  named: {dict(zip(template.options, named, strict=True))}", flush=True)


def _triage(mllm: Any, data: Path, limit: int) -> None:
    template = dataclasses.replace(load_template(real_triage.NAME), lettered=True)
    listed = dataclasses.replace(template, listed=True)
    kinds = len(template.options) // len(ORGANS)

    def encoder(shown: Template) -> Encoder:
        return Encoder(mllm, shown, "original", None)

    letters = [template.answer(i) for i in range(len(template.options))]
    ways = {
        "letters": (encoder(template), letters),
        "words": (encoder(template), [f"{organ} treatment" for organ in ORGANS]),
        "letters, options listed": (encoder(listed), letters),
    }
    rows = real_triage.load(data).test
    spaced = [rows[i * len(rows) // limit] for i in range(limit)]
    alone = {row.image: dataclasses.replace(row, text=None) for row in rows}
    for view, asked in (("picture and question", spaced), ("picture alone", list(alone.values())[:limit])):
        right: dict[str, list[bool]] = {name: [] for name in ways}
        for row in asked:
            assert row.label is not None
            for name, answer in chosen(ways, row).items():
                organ = answer if name == "words" else answer // kinds
                right[name].append(organ == row.label // kinds)
        for name, hits in right.items():
            _told(f"real_triage, organ, {view}, {name}", hits)


def main(words: list[str] | None = None) -> None:
    """Ask."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder of an aligned base")
    parser.add_argument("--data", type=Path, required=True, help="folder above vqa_rad/ and medquad/")
    parser.add_argument("--organs", type=Path, help="folder that organs.py wrote")
    parser.add_argument(
        "--limit", type=int, default=72, help="rows of real_triage, evenly spaced, and pictures (default 72)"
    )
    parser.add_argument("--image-tokens", type=int, default=70)
    given = parser.parse_args(words)
    mllm = load_mllm(ModelOptions(path=given.model, image_tokens=given.image_tokens))
    log = Path(given.model) / "alignment.json"
    learnt = set(json.loads(log.read_text(encoding="utf-8"))["learnt_from"]) if log.is_file() else set()
    if given.organs is not None:
        _organs(mllm, given.organs, learnt)
    _triage(mllm, given.data, given.limit)


if __name__ == "__main__":
    main()
