"""Families of multimodal models: what one does differently from the others, one small file each.

:data:`FAMILIES` maps a checkpoint's ``model_type`` to the module whose ``FAMILY`` describes it. A type that is not in
the table gets :data:`GENERIC`, which needs nothing but transformers' own classes and the usual names of modules.
"""

from __future__ import annotations

import importlib

from fs_fedmllm.models.families.base import Family
from fs_fedmllm.registry import Registry

GENERIC = Family("generic")

_HERE = "fs_fedmllm.models.families."

#: ``model_type`` of a checkpoint's config.json -> module with a ``FAMILY``.
FAMILIES: dict[str, str] = {
    "llava": _HERE + "llava",
    "llava_next": _HERE + "llava",
    "llava_onevision": _HERE + "llava_onevision",
    "idefics3": _HERE + "smolvlm",
    "smolvlm": _HERE + "smolvlm",
    "qwen2_vl": _HERE + "qwen_vl",
    "qwen2_5_vl": _HERE + "qwen_vl",
    "qwen3_vl": _HERE + "qwen_vl",
    "internvl": _HERE + "internvl",
    "gemma3": _HERE + "gemma3",
    "minicpmv4_6": _HERE + "minicpmv4_6",
    "minicpmv": _HERE + "minicpmv_legacy",
}

#: Families of other packages, by ``model_type``.
REGISTERED: Registry[Family] = Registry("fs_fedmllm.families", {}, FAMILIES)


def family_of(model_type: str) -> Family:
    """The family of a model type; the generic one if the type has no entry."""
    REGISTERED.refuse_taken(model_type)
    name = FAMILIES.get(model_type)
    if name is None:
        return REGISTERED.get(model_type, GENERIC)
    family = importlib.import_module(name).FAMILY
    assert isinstance(family, Family)
    return family
