"""The memory of this process: what its imports take, and the peak above them."""

from __future__ import annotations

import gc
import importlib
from pathlib import Path

from fs_fedmllm.config import Config

_STATUS = Path("/proc/self/status")


def _field(name: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) << 10
    return 0


def import_everything(config: Config) -> int:
    """Import what a run of this configuration imports, and start PyTorch's machinery.

    Returns:
        Resident bytes after that: what a plan's memory is counted from. The peak starts anew here.
    """
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

    from fs_fedmllm.models.loader import resolve_path
    from fs_fedmllm.rounds.federation import set_threads

    for module in ("fs_fedmllm.runs.simulation", "torch.utils.tensorboard", "peft", "sklearn.metrics", "PIL.Image"):
        importlib.import_module(module)
    set_threads(config.fedmllm.threads)
    options = config.model.fedmllm
    path = resolve_path(options.path)
    if not options.trust_remote_code:
        model_config = AutoConfig.from_pretrained(path, local_files_only=True)
        AutoModelForImageTextToText._model_mapping[type(model_config)]  # the model's own module
        AutoProcessor.from_pretrained(path, local_files_only=True)
    # The first backward pass starts threads, the first matrix product a library's buffers.
    weight = torch.randn(64, 64, requires_grad=True)
    (torch.randn(64, 64) @ weight).sum().backward()
    torch.optim.AdamW([weight], fused=True).step()
    gc.collect()
    reset_peak()
    return _field("VmRSS")


def reset_peak() -> None:
    """Let the peak start from what is resident now; where that is not allowed it stays as it is."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def peak() -> int:
    """Largest resident size since :func:`reset_peak`, in bytes."""
    return _field("VmHWM")
