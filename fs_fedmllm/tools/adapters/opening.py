"""An adapter on its base, ready to answer: from a folder or a hub, with the settings that it was trained with."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fs_fedmllm.config import LoraConfig, ModelOptions, from_mapping
from fs_fedmllm.errors import ConfigError, ModelError
from fs_fedmllm.files.safe_yaml import parse_yaml
from fs_fedmllm.files.untrusted import WRITTEN, read_regular
from fs_fedmllm.hub.fetch import adapter_folder, check_meaning, read_config
from fs_fedmllm.models import loader
from fs_fedmllm.models.adapter_folder import Description, other_base, read_description
from fs_fedmllm.models.export import TINY_NAME, base_name, read_adapter
from fs_fedmllm.models.loader import load_mllm
from fs_fedmllm.models.mllm import MLLM

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Opened:
    """An adapter loaded into its base.

    Attributes:
        folder: where its files are.
        mllm: the model; it is nobody else's.
        base: public id or bare name of the base that it is on.
        description: how it was trained; None for an adapter of somebody else's.
        other: what is to be said where that is not the adapter's own base; empty where it is, or nothing tells.
    """

    folder: Path
    mllm: MLLM
    base: str
    description: Description | None
    other: str = ""


def _alone(options: ModelOptions, use_gpu: bool) -> MLLM:
    """A model that is not the process-wide one: what is done to it is nobody else's business."""
    shared = dict(loader._LOADED)
    loader._LOADED.clear()
    try:
        return load_mllm(options, use_gpu=use_gpu)
    finally:
        loader._LOADED.clear()
        loader._LOADED.update(shared)


def _options(stored: Mapping[str, Any], where: Path) -> ModelOptions:
    """``model.fedmllm`` from an adapter's description, checked as a configuration's is; no remote code by this way."""
    raw = {name: value for name, value in stored.items() if name not in ("path", "trust_remote_code")}
    try:
        # The model's section alone cannot be checked; around it stands the least that a configuration needs.
        whole = {
            "data": {"type": "digits_triage", "splitter": "fedmllm_aligned"},
            "federate": {"client_num": 1},
            "model": {"fedmllm": raw},
        }
        return from_mapping(whole, str(where)).model.fedmllm
    except ConfigError as error:
        raise ModelError(f"{error} The adapter was written by another release.") from error


def _foreign(config: Mapping[str, Any], folder: Path) -> ModelOptions:
    """Options for an adapter without a description: plain LoRA, as PEFT's configuration states it."""
    target = config.get("target_modules")
    if config.get("peft_type") != "LORA" or not isinstance(target, str):
        raise ModelError(
            f"{folder} has no fedmllm.json, and its adapter_config.json is not that of a LoRA over a regular "
            "expression: it was not made by fs-fedmllm. Load it with PEFT."
        )
    try:
        lora = LoraConfig(
            r=int(config["r"]), alpha=float(config["lora_alpha"]), dropout=float(config["lora_dropout"]), target=target
        )
        full = [str(name) for name in config.get("modules_to_save") or []]
        return ModelOptions(lora=lora, modules_to_save=full, revision=str(config.get("revision") or ""))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ModelError(
            f"{folder / 'adapter_config.json'} is not that of a LoRA ({type(error).__name__}: {error})."
        ) from error


def _base(folder: Path, named: str, given: str, options: ModelOptions) -> str:
    """Where the base is: what the user says, the public id, or the path in the run folder beside the adapter."""
    if given:
        return given
    if named == TINY_NAME:
        return "tiny"
    resolved = folder.parent / "resolved_config.yaml"
    if resolved.is_file():
        try:
            stated = parse_yaml(read_regular(resolved, WRITTEN).decode("utf-8"))["model"]["fedmllm"]["path"]
        except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
            raise ModelError(
                f"{resolved} does not say where the adapter's base is ({type(error).__name__}); say it with --base."
            ) from error
        if Path(str(stated)).is_dir():
            return str(stated)
    if not named:
        raise ModelError(
            f"{folder / 'adapter_config.json'} does not name the adapter's base: say which it is (--base)."
        )
    if "/" not in named:
        raise ModelError(f"The adapter's base is the folder {named!r} of another machine: say where it is (--base).")
    return named


def open_adapter(
    reference: str,
    *,
    base: str = "",
    dtype: str = "",
    use_gpu: bool = False,
    trust_remote_code: bool = False,
    full_precision: bool = False,
) -> Opened:
    """Load an adapter into its base.

    Args:
        reference: a folder, or ``hub:owner/name@revision``.
        base: folder or hub id of the base; empty takes what the adapter names.
        dtype: precision of the base; empty takes the training's.
        use_gpu: on an accelerator.
        trust_remote_code: run code that comes with the base.
        full_precision: leave quantisation away.

    Raises:
        HubError: the adapter cannot be fetched.
        ModelError: adapter or base cannot be loaded, or do not fit each other.
    """
    folder = adapter_folder(reference)
    config = read_config(folder)
    description = read_description(folder)
    options = _options(description.model, folder) if description is not None else _foreign(config, folder)
    named = description.base if description is not None else str(config.get("base_model_name_or_path") or "")
    changes: dict[str, Any] = {
        "path": _base(folder, named, base, options),
        "trust_remote_code": trust_remote_code,
    }
    if changes["path"] != named:  # the revision is that of the base that the adapter names
        changes["revision"] = ""
    if dtype:
        changes["dtype"] = dtype
    if full_precision:
        changes["quantization"] = dataclasses.replace(options.quantization, type="none")
    options = dataclasses.replace(options, **changes)
    mllm = _alone(options, use_gpu)
    if said := other_base(folder, config, options):
        logger.warning("%s", said)
    check_meaning(folder, mllm.model.peft_config["default"].to_dict())
    mllm.adapter.load(read_adapter(folder, mllm.adapter.export()))
    mllm.set_training(False)
    # The public id that the adapter knows is its own base's.
    on = named if named and not said else base_name(options.path)
    return Opened(folder, mllm, on, description, said)
