"""The adapters of the last and the best round as files."""

from __future__ import annotations

from pathlib import Path

from fs_fedmllm.files.atomic import write_atomically
from fs_fedmllm.models.adapter_folder import NAME as DESCRIPTION
from fs_fedmllm.models.adapter_folder import describe
from fs_fedmllm.models.export import adapter_bytes, write_adapter
from fs_fedmllm.rounds.federation import Federation
from fs_fedmllm.runs.checkpoint import RunState


def write_adapters(folder: Path, federation: Federation, state: RunState) -> str | None:
    """Write the last and the best adapter.

    Args:
        folder: of the run.
        federation: the run's pieces.
        state: the run.

    Returns:
        sha256 of the last one's tensors; None for the baseline Local, which has no global adapter.
    """
    if federation.optimizer is None:
        return None
    config, mllm = federation.config, federation.mllm
    public = config.fedmllm.hub.base_model
    digest = write_adapter(folder / "adapter", mllm, state.params, public)
    description = describe(config, federation.data.template)
    write_atomically(folder / "adapter" / DESCRIPTION, description)
    if config.federate.save_to:
        write_atomically(Path(config.federate.save_to), adapter_bytes(state.params))
    if state.best:
        write_adapter(folder / "adapter_best", mllm, state.best, public)
        write_atomically(folder / "adapter_best" / DESCRIPTION, description)
    return digest
