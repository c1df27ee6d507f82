"""What new rows of one's own are read with where nobody says otherwise: the adapter's prompts, its run's columns.

A hospital evaluates the next month's rows as it wrote those that it trained on. What names files or divides rows
(``file``, ``split``) is never taken over, and what the new rows do not have (a column, a group) is not either.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from fs_fedmllm.data.columns import missing
from fs_fedmllm.data.files import is_below
from fs_fedmllm.data.findings import Findings
from fs_fedmllm.data.own_files import find_sources, is_table, read_source
from fs_fedmllm.data.row_values import Row
from fs_fedmllm.data.table_form import table_form
from fs_fedmllm.errors import FedMLLMError
from fs_fedmllm.models.adapter_folder import Description, template_mapping
from fs_fedmllm.tools.adapters.row_files import own_options, resampled_by, settings_of

_NAME = re.compile(r"[\w-][\w.-]*")


@dataclass(frozen=True)
class TakenOver:
    """What is taken over.

    Attributes:
        options: of ``fedmllm.data``, the template's left out.
        template: name of the adapter's prompts; empty where others were named.
        together: keys whose rows are resampled together.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    template: str = ""
    together: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it; empty where nothing is taken over."""
        together = self.together[0] if len(self.together) == 1 else list(self.together)
        named = {"template": self.template, **self.options, "keep_together": together}
        return {name: value for name, value in named.items() if value}


def take_over(reference: str, root: Path, given: Mapping[str, Any]) -> TakenOver:
    """What rows in a folder take over from the run of an adapter, but for its prompts.

    Args:
        reference: the adapter or its run folder, as the user names it.
        root: the folder of the new rows.
        given: options of ``fedmllm.data`` that the user has given.
    """
    settings = settings_of(reference)
    of_run = own_options(settings)
    taken = {
        name: of_run[name] for name in ("absent", "delimiter", "encoding") if of_run.get(name) and name not in given
    }
    files = {name: str(given.get(name) or "") for name in ("train", "val", "test")}
    try:
        sources = find_sources(root, str(given.get("file") or ""), files)
        if not any(is_table(source.path) for source in sources):
            taken = {name: value for name, value in taken.items() if name == "absent"}
        asked = {**taken, **given}
        form = table_form(str(asked.get("delimiter") or ""), str(asked.get("encoding") or ""))
        columns = _Columns(row for source in sources for _, row in read_source(source, Findings(), form))
    except (FedMLLMError, OSError):  # reading the rows says it, with what to do
        return TakenOver()
    below = str(of_run.get("image_root") or "")
    if below and "image_root" not in given and is_below(root, below) and (root / below).is_dir():
        taken["image_root"] = below
    if columns.holds(str(of_run.get("split_column") or "")) and "split_column" not in given:
        taken["split_column"] = of_run["split_column"]
    if isinstance(of_run.get("columns"), Mapping) and "columns" not in given:
        # Where rows call a column by our name, it needs no other.
        own = {k: v for k, v in of_run["columns"].items() if not columns.holds(k) and (not v or columns.holds(str(v)))}
        taken |= {"columns": own} if own else {}
    together = tuple(name for name in resampled_by(settings, of_run) if columns.filled(name))
    if isinstance(of_run.get("groups"), list) and "groups" not in given:
        groups = [name for name in of_run["groups"] if columns.filled(str(name))]
        taken |= {"groups": groups} if groups else {}
    return TakenOver(taken, together=together)


class _Columns:
    """Which columns rows have, and which are filled in in every row."""

    def __init__(self, rows: Iterator[Row]):
        self._rows = 0
        self._there: dict[str, int] = {}
        for row in rows:
            self._rows += 1
            for name, value in row.items():
                self._there[name] = self._there.get(name, 0) + (not missing(value))

    def holds(self, name: str) -> bool:
        return name in self._there

    def filled(self, name: str) -> bool:
        return self._rows > 0 and self._there.get(name) == self._rows


def write_prompts(description: Description, folder: Path) -> Path:
    """Write an adapter's prompts as a template's file, for a reader of rows."""
    name = description.template.name
    path = folder / f"{name if _NAME.fullmatch(name) else 'template'}.yaml"
    content = template_mapping(description.template)
    path.write_text(yaml.safe_dump(content, allow_unicode=True, sort_keys=False), encoding="utf-8")
    return path
