"""What of a run is published: the adapter, its description, the card, figures; no rows and no paths."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path, PureWindowsPath
from typing import Any

import yaml

from fs_fedmllm.config import read_yaml
from fs_fedmllm.errors import HubError, ModelError
from fs_fedmllm.evaluation.recorded import read_results
from fs_fedmllm.files.untrusted import read_mapping
from fs_fedmllm.hub.card import card
from fs_fedmllm.hub.facts import Facts
from fs_fedmllm.hub.fetch import CONFIG, FOLDERS, TENSORS
from fs_fedmllm.hub.names import is_public_id
from fs_fedmllm.hub.publisher import Release
from fs_fedmllm.hub.tested import intervals_from_rows
from fs_fedmllm.models.adapter_folder import NAME as DESCRIPTION
from fs_fedmllm.models.adapter_folder import read_description
from fs_fedmllm.models.export import TINY_NAME, check_tensors

#: Figures of results.json that are published; seconds, names of refused clients and the like stay at home.
FIGURES = (
    *("version", "profile", "dataset", "scenario", "method", "seed", "rounds", "zero_shot", "evaluations", "best"),
    *("best_by", "bytes_sent", "adapter_bytes", "adapter_sha256", "manifest_sha256", "config_sha256", "privacy"),
    *("test_rows", "test_sets", "average_last", "views", "stand_ins"),
    *("images", "decoding"),
)
#: Options of data sets that name files or folders.
_OF_FILES = (
    *("file", "train", "val", "test", "image_root", "image_prefix", "extract_images", "annotations"),
    *("vqa_rad", "slake", "medquad", "medquad_file", "flashcards", "flashcards_file"),
)
#: The same, of a further test set.
SET_FIGURES = ("dataset", "template", "test_rows", "zero_shot", "evaluations", "best", "decoding")


def public_config(config: Mapping[str, Any], base: str) -> dict[str, Any]:
    """A configuration without this machine's folders.

    Args:
        config: the configuration as a mapping.
        base: public id of the base.
    """
    value: dict[str, Any] = json.loads(json.dumps(config))
    for name in ("outdir", "expname"):
        value.pop(name, None)
    value["data"].pop("root", None)
    value["federate"].pop("save_to", None)
    if not str(value["federate"].get("restore_from", "")).startswith("hub:"):
        value["federate"].pop("restore_from", None)
    for name in ("hub", "network", "judge", "replay"):
        value["fedmllm"].pop(name, None)
    if measured := value["fedmllm"].get("eval"):
        measured["metrics"] = [PureWindowsPath(name).name for name in measured.get("metrics") or ()]
    value["fedmllm"]["vision_cache"].pop("folder", None)
    sets = value["fedmllm"].get("test_sets", {}).values()
    value["fedmllm"]["data"] = _public_options(value["fedmllm"]["data"])
    for own in sets:
        own.pop("root", None)
        own["options"] = _public_options(own.get("options") or {})
    for section in (value["fedmllm"], value["fedmllm"]["data"], *sets, *(own["options"] for own in sets)):
        if isinstance(section.get("template"), str):
            section["template"] = PureWindowsPath(section["template"]).name  # slashes of both kinds
    value["fedmllm"]["parameters"] = _nowhere(value["fedmllm"].get("parameters") or {}, _is_path)
    value["model"]["fedmllm"]["path"] = "tiny" if base == TINY_NAME else base
    shown: dict[str, Any] = _nowhere(value, lambda text: text.startswith(("/", "~")))
    return shown


def _public_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a data set without the names of its files and folders."""
    told = {k: v for k, v in options.items() if k in ("template", "title")}
    return told | {k: v for k, v in options.items() if k not in _OF_FILES and not _is_path(v)}


def _is_path(value: Any) -> bool:
    return isinstance(value, str) and (value.startswith("~") or "/" in value or "\\" in value)


def _nowhere(value: Any, is_place: Callable[[Any], bool]) -> Any:
    """What other packages have in a section is not known here: what names a place is left out, at any depth."""
    if isinstance(value, dict):
        return {k: _nowhere(v, is_place) for k, v in value.items() if not _names(v, is_place)}
    return [_nowhere(v, is_place) for v in value if not _names(v, is_place)] if isinstance(value, list) else value


def _names(value: Any, is_place: Callable[[Any], bool]) -> bool:
    return isinstance(value, str) and is_place(value)


def require_public_base(base: str) -> None:
    """Refuse to publish an adapter whose base nobody else can name.

    Raises:
        HubError: the base is no public id.
    """
    if not base:
        raise HubError(
            "The adapter's adapter_config.json names no base: give its public id, owner/name (--base-model)."
        )
    if base != TINY_NAME and not is_public_id(base):
        raise HubError(
            f"The base model {base!r} is a folder of this machine: set fedmllm.hub.base_model to its public id, "
            "owner/name (or give --base-model)."
        )


def read_manifest(folder: Path) -> dict[str, Any]:
    """The run folder's ``manifest.json``; empty where a server does not know its clients' rows (distributed runs)."""
    path = folder / "manifest.json"
    return read_mapping(path, HubError) if path.is_file() else {}


def base_licence(path: str) -> str:
    """The licence in the base's model card, if it is on this machine; ``unknown`` otherwise."""
    from fs_fedmllm.config import ModelOptions
    from fs_fedmllm.models.skeleton import find_checkpoint

    try:
        return find_checkpoint(ModelOptions(path=path)).licence
    except ModelError:
        return "unknown"


def make_release(
    *,
    repo: str,
    config: Mapping[str, Any],
    results: Mapping[str, Any],
    manifest: Mapping[str, Any],
    round_index: int,
    tensors: bytes,
    adapter_config: bytes,
    description: bytes,
    licence: str = "",
    predictions: Path | None = None,
    extra: Mapping[str, bytes] | None = None,
    averaged: bool = False,
) -> Release:
    """Put a release together.

    Args:
        repo: ``owner/name``.
        config: the run's configuration as a mapping.
        results: as in results.json, as far as the run has come.
        manifest: as in manifest.json.
        round_index: rounds done by this adapter.
        tensors: ``adapter_model.safetensors``.
        adapter_config: ``adapter_config.json``.
        description: ``fedmllm.json``.
        licence: the adapter's.
        predictions: ``predictions.jsonl`` of this round, for intervals.
        extra: further files (a checkpoint).
        averaged: it is the mean of the last rounds' adapters, whose figures are ``average_last`` of the results.

    Raises:
        HubError: the base model has no public id.
    """
    base = str(json.loads(adapter_config).get("base_model_name_or_path") or "")
    require_public_base(base)
    figures = {name: results[name] for name in FIGURES if name in results}
    if "test_sets" in figures:
        figures["test_sets"] = {
            name: {figure: own[figure] for figure in SET_FIGURES if figure in own}
            for name, own in figures["test_sets"].items()
        }
    evaluations = results.get("evaluations") or []
    entry = next((e for e in evaluations if e["round"] == round_index), None)
    mean_of = results["average_last"]["rounds"] if averaged else []
    if averaged:
        entry = results["average_last"]
    shown = public_config(config, base)
    template = json.loads(description)["template"]
    facts = Facts(
        repo=repo,
        config=shown,
        results=figures | {"refused": results.get("refused") or []},
        manifest=manifest,
        round=round_index,
        entry=entry,
        base=base,
        base_licence=base_licence(str(config["model"]["fedmllm"]["path"])),
        licence=licence,
        intervals=intervals_from_rows(predictions) if predictions is not None else {},
        mean_of=len(mean_of),
        task=str(template["task"]),
        lettered=bool(template.get("lettered", True)),
    )
    best = results.get("best_by")
    figure = f": {best} {entry[best]:.4f}" if entry and best in entry else ""
    return Release(
        round=round_index,
        message=f"{f'Mean of rounds {mean_of[0]} to {mean_of[-1]}' if mean_of else f'Round {round_index}'}{figure}",
        files={
            TENSORS: tensors,
            CONFIG: adapter_config,
            DESCRIPTION: description,
            "README.md": card(facts).encode(),
            "results.json": (json.dumps(figures, indent=2) + "\n").encode(),
            "run_config.yaml": yaml.safe_dump(shown, sort_keys=False).encode(),
            **(extra or {}),
        },
    )


def release_of_folder(
    folder: Path, repo: str, *, which: str = "best", base_model: str = "", licence: str = ""
) -> Release:
    """The release of a finished run.

    Args:
        folder: the run folder.
        repo: ``owner/name``.
        which: ``best``, ``last`` or ``average``.
        base_model: public id of the base, where the run had a folder.
        licence: the adapter's.

    Raises:
        HubError: the folder is not a finished run's, its files are not what a run wrote, or the base has no public id.
        FedMLLMError: results, description or adapter are damaged.
    """
    adapter = folder / FOLDERS[which]
    missing = [f for f in ("results.json", "resolved_config.yaml") if not (folder / f).is_file()]
    if missing:
        raise HubError(f"{folder} has no {missing[0]}: name the folder of a finished run.")
    if not (adapter / TENSORS).is_file():
        raise HubError(f"{adapter} holds no adapter (the baseline local has none; --which last takes the last one's).")
    results = read_results(folder / "results.json")
    config = read_yaml(folder / "resolved_config.yaml")
    adapter_config = read_mapping(adapter / CONFIG, HubError)
    description_file = adapter / DESCRIPTION
    if not description_file.is_file():
        raise HubError(f"{adapter} has no {DESCRIPTION}: run again with this release, which writes it.")
    description = read_mapping(description_file, HubError)
    read_description(adapter)
    check_tensors(adapter / TENSORS)
    if base_model:
        adapter_config["base_model_name_or_path"] = description["base"] = base_model
    try:
        round_index = results["best"]["round"] if which == "best" and results.get("best") else results["rounds"]
        own = round_index == results["rounds"] and which != "average"  # predictions and sha256 are of the last one
        tensors = (adapter / TENSORS).read_bytes()
        if own and results.get("adapter_sha256") not in (None, hashlib.sha256(tensors).hexdigest()):
            raise HubError(
                f"{adapter / TENSORS} is not the adapter that results.json beside it is of (adapter_sha256). Take the "
                "file that the run wrote."
            )
        return make_release(
            repo=repo,
            config=config,
            results=results,
            manifest=read_manifest(folder),
            round_index=round_index,
            tensors=tensors,
            adapter_config=(json.dumps(adapter_config, indent=2) + "\n").encode(),
            description=(json.dumps(description, indent=2) + "\n").encode(),
            licence=licence,
            predictions=folder / "predictions.jsonl" if own else None,
            averaged=which == "average",
        )
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise HubError(
            f"{folder}: results.json, resolved_config.yaml and manifest.json are not what a run of this release wrote "
            f"({type(error).__name__}: {error}). Take the files that the run wrote, or run again."
        ) from error
