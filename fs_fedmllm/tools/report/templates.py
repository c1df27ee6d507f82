"""Pages from the templates that lie beside this file."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def rendered(template: str, **values: Any) -> str:
    """A page: one file, no network.

    Args:
        template: its file's name.
        values: what it is written with; texts are escaped.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).resolve().parent),
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template(template).render(**values)
