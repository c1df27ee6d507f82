"""``python -m fs_fedmllm.conformance [module:Class ...]``: certify server optimizers; exit code 1 if one fails."""

from __future__ import annotations

import importlib
import sys

from fs_fedmllm.algorithms import OPTIMIZERS
from fs_fedmllm.conformance.server import certify


def main(arguments: list[str]) -> int:
    """Print a verdict per check for each class named, or for our own when none is.

    Args:
        arguments: ``module:Class``; the class is made without arguments.
    """
    classes = {}
    for argument in arguments:
        module, colon, name = argument.partition(":")
        if not colon:
            print(f"{argument!r} is not of the form module:Class.", file=sys.stderr)
            return 2
        try:
            classes[argument] = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError) as error:
            print(f"{argument!r} cannot be imported: {error}", file=sys.stderr)
            return 2
    failed = False
    for label, optimizer in (classes or OPTIMIZERS).items():
        print(label)
        for check, verdict in certify(optimizer()).items():
            failed |= verdict.startswith("FAILED")
            print(f"  {check:<15}{verdict}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
