"""Phrases of the model card that depend on what the run really had: no sentence that the data contradicts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fs_fedmllm.data.sample import SHOWS
from fs_fedmllm.errors import printable

#: Methods of PEFT as their papers write them; those with a rank, and with a scale.
NAMES = {"lora": "LoRA", "rslora": "rsLoRA", "dora": "DoRA", "ia3": "IA3", "vera": "VeRA", "loha": "LoHa",
         "lokr": "LoKr"}  # fmt: skip
RANKED = frozenset(NAMES) - {"ia3"}
SCALED = RANKED - {"vera"}


def lacks_modalities(manifest: Mapping[str, Any]) -> bool:
    """Whether a row of a client lacks a modality, as far as the manifest says."""
    records = manifest.get("clients") or {}
    return any(share > 0 for record in records.values() for share in (record.get("missing") or {}).values())


def dataset(name: str) -> str:
    """A data set as a sentence may name it; own data without ``fedmllm.data.title`` has no name."""
    line = printable(" ".join(name.split())).replace("<", "&lt;")  # it stands in Markdown, which may hold HTML
    return "the publisher's own data" if name == "own" else line


def test_rows(results: Mapping[str, Any], entry: Mapping[str, Any], dataset: str) -> str:
    """How many test rows there were, and what they showed: as counted, where it was."""
    counted = results.get("test_rows") or {}
    evaluated = counted.get("evaluated") or int(entry.get("test_total") or 0)
    if not evaluated:
        return f"the test rows of {dataset}"
    told, every = f"{evaluated:,} test rows of {dataset}", int(counted.get("all") or evaluated)
    if evaluated < every:
        told = f"{evaluated:,} of the {every:,} test rows of {dataset}, evenly thinned out (`fedmllm.eval.limit`)"
    presence = counted.get("presence") or {}
    shown = [f"{presence[name]:,} {what}" for name, what in SHOWS.items() if presence.get(name)]
    return told + (f"; of them {', '.join(shown)}" if shown else "")


def tags(model: Mapping[str, Any], lacking: bool) -> list[str]:
    """The hub's tags, from the section ``model.fedmllm``."""
    tags = ["federated-learning", "fs-fedmllm", str(model["peft"])]
    return [*tags, "missing-modality"] if lacking else tags


def an_adapter(peft: str) -> str:
    """The method's name with its article: a LoRA adapter, an IA3 adapter."""
    name = NAMES.get(peft, peft)
    return f"{'An' if name[0] in 'AEIO' else 'A'} {name} adapter"


def adapter(model: Mapping[str, Any]) -> str:
    """What was trained: rank and scale where the method has them, and modules in full."""
    peft, told = str(model["peft"]), ""
    if peft in RANKED:
        told = f", rank {model['lora']['r']}" + (f", alpha {model['lora']['alpha']}" if peft in SCALED else "")
    whole = [name for name in (*model["federated"], *model["modules_to_save"]) if name != "lora"]
    return NAMES.get(peft, peft) + told + (f"; in full: {', '.join(whole)}" if whole else "")
