"""The adapters of the last and the best round as files."""

from __future__ import annotations

from pathlib import Path

from fs_fedmllm.algorithms import State
from fs_fedmllm.files.atomic import write_atomically
from fs_fedmllm.hub.fetch import BEST, LAST
from fs_fedmllm.models.adapter_folder import NAME as DESCRIPTION
from fs_fedmllm.models.adapter_folder import describe
from fs_fedmllm.models.export import adapter_bytes, write_adapter
from fs_fedmllm.rounds.federation import Federation
from fs_fedmllm.runs.checkpoint import RunState


def write_adapters(folder: Path, federation: Federation, state: RunState) -> str | None:
    """Write the last and the best adapter.

    Returns:
        sha256 of the last one's tensors; None for the baseline Local, which has no global adapter.
    """
    if federation.optimizer is None:
        return None
    digest = write_adapter_folder(folder / LAST, federation, state.params)
    if save_to := federation.config.federate.save_to:
        write_atomically(Path(save_to), adapter_bytes(state.params))
    if state.best:
        write_adapter_folder(folder / BEST, federation, state.best)
    return digest


def write_adapter_folder(folder: Path, federation: Federation, params: State) -> str:
    """Write an adapter with what it needs to be used by itself; returns the sha256 of its tensor file."""
    config = federation.config
    digest = write_adapter(folder, federation.mllm, params, config.fedmllm.hub.base_model)
    write_atomically(folder / DESCRIPTION, describe(config, federation.data.template))
    return digest
