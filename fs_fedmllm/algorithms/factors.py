"""LoRA's factors by their canonical PEFT names."""

from __future__ import annotations

from collections.abc import Iterable

#: PEFT methods whose adapter is a pair of factors.
FACTORED = ("lora", "rslora", "dora")


def is_a(name: str) -> bool:
    """Whether a canonical name is a LoRA A factor."""
    return "lora_A" in name or "lora_embedding_A" in name


def pairs(names: Iterable[str]) -> list[tuple[str, str]]:
    """The names of the (A, B) factors among canonical PEFT names, in order of appearance."""
    present = dict.fromkeys(names)
    return [(a, b) for a in present if "lora_A" in a and (b := a.replace("lora_A", "lora_B")) in present]
