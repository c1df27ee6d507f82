"""torch, imported at its first use: ``from fs_fedmllm.lazy import torch``.

The configuration knows every algorithm, for an algorithm's parameters and requirements stand in its file; but to read
a configuration, or to say what is wrong with it, nobody should wait for torch.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import TYPE_CHECKING, Any


class _LazyModule(ModuleType):
    """Stands for the module of its name until one of the module's names is asked for."""

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module(self.__name__), name)


if TYPE_CHECKING:
    import torch as torch
else:
    torch = _LazyModule("torch")
