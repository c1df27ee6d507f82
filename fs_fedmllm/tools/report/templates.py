"""Pages from the templates that lie beside this file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from fs_fedmllm.errors import printable

if TYPE_CHECKING:
    import jinja2


def rendered(template: str, **values: Any) -> str:
    """A page: one file, no network.

    Args:
        template: its file's name.
        values: what it is written with, see :func:`environment`.
    """
    return environment().get_template(template).render(**values)


def environment() -> jinja2.Environment:
    """What writes pages: texts are escaped, and characters that turn a text around or move a cursor are spelt out."""
    import jinja2

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).resolve().parent),
        autoescape=True, finalize=_shown, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip


def _shown(value: Any) -> Any:
    """A text as it is shown; a piece of a page (``|safe``) as it is."""
    return printable(value) if isinstance(value, str) and not hasattr(value, "__html__") else value
