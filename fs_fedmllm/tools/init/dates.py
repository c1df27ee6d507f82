"""Days, as people and computers write them."""

from __future__ import annotations

import re

_DATE = re.compile(r"\d{4}-\d{1,2}-\d{1,2}\b|\d{1,2}([./-])\d{1,2}\1(\d{4}|\d\d)\b")


def is_date(text: str) -> bool:
    """Whether a text begins with a day."""
    return _DATE.match(text) is not None
