"""A model's federated slots: adapters on its language layers, and the modules that are trained in full."""

from __future__ import annotations

import re
import warnings
from typing import Any

import torch

from fs_fedmllm.config import ModelOptions
from fs_fedmllm.errors import ModelError
from fs_fedmllm.models.families import Family
from fs_fedmllm.models.peft_methods import peft_config, target_of


def attach(options: ModelOptions, family: Family, inner: Any) -> tuple[Any, int, dict[str, tuple[str, ...]]]:
    """Freeze a model and give it its federated slots.

    Returns:
        The PEFT model, the number of language layers, and the modules trained in full, by group.

    Raises:
        ModelError: an expression or a name finds nothing in the model.
    """
    from peft import get_peft_model

    depth = language_depth(inner, target_of(options, family))
    inner.requires_grad_(False)  # quantised weights that nothing trains are never dequantised to be updated
    inner.config.use_cache = False
    groups = {name: full_modules(inner, family, name) for name in options.federated if name != "lora"}
    if options.modules_to_save:
        for wanted in options.modules_to_save:
            if not any(name == wanted or name.endswith(f".{wanted}") for name, _ in inner.named_modules()):
                raise ModelError(f"model.fedmllm.modules_to_save names {wanted!r}, which the model does not have.")
        groups["modules_to_save"] = tuple(options.modules_to_save)
    modules = list(dict.fromkeys(name for names in groups.values() for name in names))
    generates = hasattr(inner, "prepare_inputs_for_generation")
    try:
        with warnings.catch_warnings():
            # PEFT asks by a name that transformers has renamed; a run can do nothing about it.
            warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`", category=FutureWarning)
            model = get_peft_model(inner, peft_config(options, family, modules, generates))
    except (ValueError, TypeError) as error:
        raise ModelError(f"PEFT cannot attach {options.peft} to {type(inner).__name__}: {error}") from error
    return model, depth, groups


def language_depth(model: torch.nn.Module, target: str) -> int:
    """Number of language layers that a LoRA target expression reaches.

    Raises:
        ModelError: no module matches, or the expression has no group with the layer's index.
    """
    try:
        pattern = re.compile(target)
    except re.error as error:
        raise ModelError(f"model.fedmllm.lora.target is not a valid regular expression: {error}.") from error
    indices = set()
    for name, _ in model.named_modules():
        match = pattern.fullmatch(name)
        if match:
            digits = [int(group) for group in match.groups() if group and group.isdigit()]
            if not digits:
                raise ModelError("model.fedmllm.lora.target needs a group (\\d+) that captures the layer's index.")
            indices.add(digits[0])
    if not indices:
        stacks = [name for name, module in model.named_modules() if isinstance(module, torch.nn.ModuleList)]
        raise ModelError(
            f"No language layer of {type(model).__name__} matches the expression {target!r}. Its lists of layers are "
            f"{', '.join(stacks) or 'none'}: set model.fedmllm.lora.target, or add a family (docs/extending.md)."
        )
    config = getattr(model, "config", None)
    declared = getattr(config.get_text_config(), "num_hidden_layers", 0) if config is not None else 0
    return max(int(declared or 0), max(indices) + 1)


def full_modules(model: torch.nn.Module, family: Family, group: str) -> tuple[str, ...]:
    """The modules of a group, by the endings of their names that PEFT looks for.

    Raises:
        ModelError: the family has no such group, or the model no such module.
    """
    if group not in family.groups:
        raise ModelError(
            f"model.fedmllm.federated names {group!r}; models of the family {family.name} have "
            f"{', '.join(['lora', *family.groups])}. Other modules go into model.fedmllm.modules_to_save."
        )
    found: list[str] = []
    for ending in family.groups[group]:
        for name, module in model.named_modules():
            if name == ending or name.endswith(f".{ending}"):
                # PEFT copies modules that are called; a list of them is not.
                lists = isinstance(module, torch.nn.ModuleList)
                found += [f"{ending}.{i}" for i in range(len(module))] if lists else [ending]  # type: ignore[arg-type]
    if not found:
        raise ModelError(
            f"model.fedmllm.federated names {group!r}, but {type(model).__name__} has none of its modules "
            f"({', '.join(family.groups[group])})."
        )
    return tuple(dict.fromkeys(found))
