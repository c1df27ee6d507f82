"""Options that are counts: one that is too small is refused with the usage, not taken for nothing."""

from __future__ import annotations

import argparse
from collections.abc import Callable


def at_least(least: int) -> Callable[[str], int]:
    """An option's ``type``: a whole number from here on.

    Args:
        least: the smallest that means something.
    """

    def count(word: str) -> int:
        value = int(word)
        if value < least:
            raise argparse.ArgumentTypeError(f"{value} is below {least}")
        return value

    return count
