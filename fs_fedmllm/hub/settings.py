"""What a model card says of how the model is asked: how images are shown to it, and how its answers come about."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

#: Filters by the number that Pillow and image processors know them by.
_FILTERS = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
#: What decides the tokens of a written answer, in the order in which it is told; the rest follows.
_FIRST = ("do_sample", "temperature", "top_p", "top_k", "repetition_penalty", "max_new_tokens", "stops")
SCORED = "Nothing is written: the answer is the option whose letter is the likeliest, in one forward pass."
SCORED_IN_WORDS = "Nothing is written: the answer is the option whose text is the likeliest, its end included."


def images(model: Mapping[str, Any], facts: Mapping[str, Any] | None) -> list[str]:
    """The settings of images, a line each.

    Args:
        model: ``model.fedmllm`` of the run.
        facts: ``images`` of results.json; None for a run of a release that did not keep them.
    """
    budget = int(model.get("image_tokens") or 0)
    most = f"at most {budget:,} tokens an image" if budget else "no limit of an image's tokens"
    lines = [f"- images: {most} (`model.fedmllm.image_tokens: {budget}`), shown with"]
    shown = dict(facts or model.get("image") or {})
    lines += [f"  - {_code(name)}: {_value(name, shown[name])}" for name in sorted(shown)]
    return lines if shown else [lines[0].removesuffix(", shown with")]


def answers(decoding: Mapping[str, Any] | None, task: str, *, lettered: bool = True) -> list[str]:
    """How answers come about, a line each; none where nobody kept it.

    Args:
        decoding: of results.json, or of a further test set's part.
        task: of the prompts, ``choice`` or ``vqa``.
        lettered: whether a choice's options have letters.
    """
    if not decoding:
        return [f"- answers: {SCORED if lettered else SCORED_IN_WORDS}"] if task == "choice" else []
    names = [*(name for name in _FIRST if name in decoding), *sorted(name for name in decoding if name not in _FIRST)]
    how = "drawn by chance" if decoding.get("do_sample") else "the likeliest token at each step"
    return [f"- answers: written, {how}", *(f"  - {_code(name)}: {_code(decoding[name])}" for name in names)]


def _value(name: str, value: Any) -> str:
    if name == "resample" and type(value) is int and 0 <= value < len(_FILTERS):
        return f"{_code(value)} ({_FILTERS[value]})"
    return _code(value)


def _code(value: Any) -> str:
    """A value as code; what stands in a checkpoint's files cannot end it."""
    text = value if isinstance(value, str) and value.isidentifier() else json.dumps(value, ensure_ascii=False)
    return f"`{text.replace('`', chr(39))}`"
