"""Modules that are imported at their first use.

The configuration knows every algorithm, for an algorithm's parameters and requirements stand in its file; but to read
a configuration, or to say what is wrong with it, nobody should wait for torch.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any


class LazyModule(ModuleType):
    """Stands for a module until one of its names is asked for.

    Args:
        name: the module's full name.
    """

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module(self.__name__), name)
