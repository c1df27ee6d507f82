"""Adapters and checkpoints from a hub: the named files and no others, by one commit, as safetensors and JSON."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from fs_fedmllm.config import ModelOptions
from fs_fedmllm.errors import HubError, ModelError
from fs_fedmllm.files.atomic import write_atomically
from fs_fedmllm.files.untrusted import read_mapping
from fs_fedmllm.hub.names import PREFIX, Reference, parse_reference
from fs_fedmllm.models.adapter_folder import other_base
from fs_fedmllm.models.export import read_adapter

logger = logging.getLogger(__name__)

TENSORS, CONFIG, DESCRIPTION = "adapter_model.safetensors", "adapter_config.json", "fedmllm.json"
#: Folders of adapters in a run folder.
BEST, LAST, AVERAGE = "adapter_best", "adapter", "adapter_average"
#: Folder by what ``--which`` calls it.
FOLDERS = {"best": BEST, "last": LAST, "average": AVERAGE}
#: Seconds to wait for the hub's first answer.
PATIENCE = 30
_CHECKPOINT = re.compile(r"checkpoint/[\w-][\w.-]*\.(safetensors|json)")
#: What changes what an adapter's tensors mean.
_MEANING = (
    *("peft_type", "r", "lora_alpha", "use_rslora", "use_dora", "rank_pattern", "alpha_pattern", "fan_in_fan_out"),
    *("layer_replication", "alora_invocation_tokens", "use_qalora", "use_bdlora", "arrow_config", "kasa_config"),
)
#: Initialisations that take a part of the base's weights into the adapter: it belongs to what was left of them.
_OFF_THE_BASE = ("pissa", "olora", "loftq", "corda", "lora_ga")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep huggingface_hub's progress bars out of a run's output."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    was_off = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if not was_off:
            enable_progress_bars()


def make_api() -> Any:
    """The hub's client; the endpoint (HF_ENDPOINT) and the token are its own business."""
    from huggingface_hub import HfApi

    from fs_fedmllm.version import VERSION

    return HfApi(library_name="fs-fedmllm", library_version=VERSION)


def explain(error: BaseException) -> str:
    """One line on what went wrong, without signed addresses or anything that looks like a token."""
    seen: BaseException | None = error
    while seen is not None and seen.__cause__ is not None and type(seen) is RuntimeError:
        seen = seen.__cause__
    text = " ".join(str(seen).split()) or type(seen).__name__
    text = re.sub(r"(https?://[^\s?'\"]+)\?\S+", r"\1", text)
    text = re.sub(r"\b(hf|api_org|hf_oauth)_[A-Za-z0-9]{8,}\b", "<token>", text)
    return f"{type(seen).__name__}: {text[:400]}"


def status_of(error: BaseException | None) -> int | None:
    """The HTTP status behind an error, if there is one."""
    while error is not None:
        response = getattr(error, "response", None)
        if response is not None and getattr(response, "status_code", None):
            return int(response.status_code)
        error = error.__cause__
    return None


def _download(reference: Reference, names: tuple[str, ...], optional: tuple[str, ...] = ()) -> tuple[Path, str]:
    """Fetch files of one commit; the folder that holds them, and the commit."""
    from huggingface_hub.errors import EntryNotFoundError

    api = make_api()
    try:
        with quiet():
            commit = str(api.model_info(reference.repo, revision=reference.revision).sha)
            folder = Path()
            for name in (*names, *optional):
                try:
                    file = Path(api.hf_hub_download(reference.repo, name, revision=commit))
                except EntryNotFoundError:
                    if name in optional:
                        continue
                    raise
                folder = file.parents[len(Path(name).parts) - 1]
    except EntryNotFoundError as error:
        raise HubError(f"hub:{reference} has no {name}; only adapters in safetensors are read.") from error
    except Exception as error:  # whatever the network did: the user needs one sentence
        status = status_of(error)
        private = status in (401, 403, 404)
        hint = " Log in with 'hf auth login' if the repository is private or gated." if private else ""
        raise HubError(f"hub:{reference} cannot be fetched: {explain(error)}.{hint}") from error
    return folder, commit


def adapter_of_run(folder: Path, which: str = "best") -> Path | None:
    """The adapter in a run folder; None where the folder holds none, or is itself an adapter's.

    Args:
        folder: of a run.
        which: ``best`` (the last one's where no round was evaluated), ``last``, or ``average`` of the last rounds.
    """
    if (folder / TENSORS).is_file():
        return None
    names = (BEST, LAST) if which == "best" else (FOLDERS[which],)
    return next((folder / name for name in names if (folder / name / TENSORS).is_file()), None)


def adapter_folder(text: str, key: str = "the adapter", which: str = "best") -> Path:
    """The folder of an adapter: a folder here, its tensor file's, a run folder's, or ``hub:owner/name@revision``.

    Args:
        text: what the user wrote.
        key: what it was given as, for messages.
        which: of a run folder, see :func:`adapter_of_run`.

    Raises:
        HubError: it cannot be fetched, or is not written as a reference.
        ModelError: there is no such folder, or it has no safetensors.
    """
    if text.startswith(PREFIX):
        return _download(parse_reference(text, key), (TENSORS, CONFIG), (DESCRIPTION,))[0]
    path = Path(text)
    if path.is_file():
        path = path.parent
    if not path.is_dir():
        raise ModelError(f"{key}: {text!r} is neither a folder here nor hub:owner/name@revision.")
    path = adapter_of_run(path, which) or path
    if not (path / TENSORS).is_file():
        pickled = (path / "adapter_model.bin").is_file()
        raise ModelError(
            f"{path} has no {TENSORS}"
            + (", only a pickle, which is never read: save it again as safetensors." if pickled else _inside(path))
        )
    return path


def _inside(folder: Path) -> str:
    """What to name instead of a folder that is no run's and no adapter's."""
    runs = sorted(path.parent.parent.name for path in folder.glob(f"*/*/{TENSORS}"))
    named = ", ".join(dict.fromkeys(runs)) if len(runs) < 20 else ""
    return f". Name a run folder, or one that holds an adapter{f'; the runs in it are {named}' if named else ''}."


def read_config(folder: Path) -> dict[str, Any]:
    """``adapter_config.json``.

    Raises:
        ModelError: it is missing or not a mapping.
    """
    return read_mapping(folder / CONFIG, ModelError)


def check_meaning(folder: Path, live: Mapping[str, Any]) -> None:
    """Refuse an adapter whose scale or kind is not that of the slots that it would go into.

    Args:
        folder: the adapter's.
        live: PEFT's configuration of the slots.

    Raises:
        ModelError: names the first setting that differs.
    """
    stored = read_config(folder)
    for name in _MEANING:
        ours, theirs = live.get(name), stored.get(name)
        if name in stored and (ours or None) != (theirs or None):
            raise ModelError(
                f"{folder / CONFIG}: {name} is {theirs!r}, this run's is {ours!r}: the tensors would mean something "
                "else. Give the run the adapter's settings (model.fedmllm.lora)."
            )
    start = stored.get("init_lora_weights")
    if isinstance(start, str) and start.startswith(_OFF_THE_BASE):
        raise ModelError(
            f"{folder / CONFIG}: init_lora_weights is {start!r}: the adapter belongs to a base without the part that "
            "it began with. Save it with PEFT as a plain LoRA (path_initial_model_for_weight_conversion)."
        )


def restore(
    text: str, like: dict[str, torch.Tensor], live: Mapping[str, Any], options: ModelOptions, public: str = ""
) -> dict[str, torch.Tensor]:
    """The adapter that a run starts from (``federate.restore_from``).

    Args:
        text: a safetensors file, a folder, or ``hub:owner/name@revision``.
        like: the tensors that the model needs.
        live: PEFT's configuration of the model.
        options: of the model; that the adapter is another base's is said.
        public: ``fedmllm.hub.base_model``.

    Raises:
        HubError: it cannot be fetched.
        ModelError: names, shapes, values or meaning do not fit.
    """
    if text.startswith(PREFIX):
        path = holder = adapter_folder(text, "federate.restore_from")
    else:
        path = Path(text)
        holder = path if path.is_dir() else path.parent
    if text.startswith(PREFIX) or (holder / CONFIG).is_file():
        check_meaning(holder, live)
        if said := other_base(holder, read_config(holder), options, public):
            logger.warning("federate.restore_from: %s", said)
    return read_adapter(path, like)


def checkpoint_names(text: str) -> tuple[Reference, list[str]]:
    """The commit that a reference names, and the files of the run's state in it.

    Args:
        text: ``owner/name@revision``.

    Raises:
        HubError: the revision has no checkpoint, or the hub does not answer.
    """
    reference = parse_reference(text, "fedmllm.hub.resume_from")
    try:
        with quiet():
            info = make_api().model_info(reference.repo, revision=reference.revision, timeout=PATIENCE)
    except Exception as error:
        raise HubError(f"hub:{reference} cannot be fetched: {explain(error)}.") from error
    names = [item.rfilename for item in info.siblings or [] if _CHECKPOINT.fullmatch(item.rfilename)]
    if "checkpoint/state.json" not in names:
        raise HubError(
            f"hub:{reference} holds no checkpoint. Name an earlier commit of a run with fedmllm.hub.checkpoint: True, "
            "or start from its adapter with federate.restore_from."
        )
    return Reference(reference.repo, str(info.sha)), names


def fetch_checkpoint(text: str, folder: Path) -> str:
    """Put a pushed run's state into a run folder that has none.

    Args:
        text: ``owner/name@revision``.
        folder: the run folder.

    Returns:
        The commit that it came from.

    Raises:
        HubError: the revision has no checkpoint, or cannot be fetched.
    """
    reference, names = checkpoint_names(text)
    source, commit = _download(reference, tuple(names), ("metrics.jsonl",))
    if (source / "metrics.jsonl").is_file():
        write_atomically(folder / "metrics.jsonl", (source / "metrics.jsonl").read_bytes())
    # The header comes last: without it there is no checkpoint.
    for name in sorted(names, key=lambda name: name == "checkpoint/state.json"):
        write_atomically(folder / name, (source / name).read_bytes(), private=True)
    return commit
