"""What processes of a test's federation do otherwise than usual; Python imports this first where it is on the path.

The environment's ``HOOK`` names one of the modules beside this one, whose ``CHANGES`` are functions by the name of the
module that they change.
"""

import importlib
import importlib.abc
import importlib.util
import os
import sys

CHANGES = dict(importlib.import_module(os.environ["HOOK"]).CHANGES)


class Changed(importlib.abc.MetaPathFinder):
    """Finds these modules as usual, and changes each when it has been loaded."""

    def find_spec(self, name, path, target=None):
        change = CHANGES.pop(name, None)  # asked again below, it is not ours
        spec = importlib.util.find_spec(name) if change else None
        if spec is not None:
            load = spec.loader.exec_module

            def exec_module(module):
                load(module)
                change(module)

            spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, Changed())
