"""How large what is sent is."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import torch

from fs_fedmllm.models.export import adapter_bytes


def wire_bytes(tensors: Mapping[str, torch.Tensor]) -> int:
    """Bytes of tensors on the wire: the size of their safetensors file, which depends on names and shapes alone."""
    return _file_bytes(tuple((name, tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()))


@functools.lru_cache(maxsize=64)
def _file_bytes(layout: tuple[tuple[str, torch.dtype, tuple[int, ...]], ...]) -> int:
    return len(adapter_bytes({name: torch.empty(shape, dtype=dtype) for name, dtype, shape in layout}))
