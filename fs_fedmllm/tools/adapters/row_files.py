"""Files of rows to ask an adapter about: what is read, and what a run's own columns are called."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fs_fedmllm.config import read_yaml
from fs_fedmllm.config.schema import column_names
from fs_fedmllm.data.columns import renamed, without
from fs_fedmllm.data.files import is_below
from fs_fedmllm.data.findings import Findings
from fs_fedmllm.data.own_files import Source, is_table, read_source
from fs_fedmllm.data.row_values import Row
from fs_fedmllm.data.table_form import table_form
from fs_fedmllm.errors import FedMLLMError
from fs_fedmllm.hub.names import PREFIX
from fs_fedmllm.runs.listing import CONFIGURATION, run_folder_of


@dataclass(frozen=True)
class RowForm:
    """How the rows of a run are written.

    Attributes:
        columns: field -> column, where their names differ.
        image_root: folder that image paths begin at, from that of the file on, where there is one.
        absent: texts that say that a value is not there.
        delimiter: of tables; empty to look for it.
        encoding: of tables; empty for UTF-8.
        follow_links: whether links below that folder may lead out of it, as the run's could.
        together: columns whose rows intervals resample together.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    image_root: str = ""
    absent: frozenset[str] = frozenset()
    delimiter: str = ""
    encoding: str = ""
    follow_links: bool = False
    together: tuple[str, ...] = ()

    def images(self, file: Path) -> Path:
        """The folder that the images of a file lie in."""
        below = file.parent / self.image_root
        there = self.image_root and is_below(file.parent, self.image_root) and below.is_dir()
        return below if there else file.parent

    def rows(self, file: Path) -> Iterator[tuple[str, Row, Row]]:
        """Rows with their place: as the file has them, and with our names.

        Args:
            file: CSV, TSV, JSON Lines, JSON or Parquet, by its name.

        Raises:
            DataError: it cannot be read, told with its line.
        """
        form = table_form(self.delimiter, self.encoding) if is_table(file) else table_form("", "")
        for where, original in read_source(Source(file, ""), Findings(), form):
            row = without(original, self.absent)
            # A file that calls a column by our name needs no mapping of the run's.
            mapping = {name: column for name, column in self.columns.items() if column in row and name not in row}
            yield where, row, renamed(row, mapping, where)


def form_of(reference: str) -> RowForm:
    """How the rows of a run of one's own data are written; nothing special where it is none.

    Args:
        reference: an adapter or a run folder, as the user names it.
    """
    settings = settings_of(reference)
    options = own_options(settings)
    return replace(_form(options), together=resampled_by(settings, options))


def settings_of(reference: str) -> Mapping[str, Any]:
    """The configuration of an adapter's run as it was written; empty where there is none, or another release's.

    Args:
        reference: an adapter or a run folder, as the user names it.
    """
    file = run_folder_of(Path(reference)) / CONFIGURATION
    if reference.startswith(PREFIX) or not file.is_file():
        return {}
    try:
        return read_yaml(file)
    except FedMLLMError:  # opening the adapter says what matters
        return {}


def own_options(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """``fedmllm.data`` of a run of one's own data; empty of any other."""
    data, section = settings.get("data"), settings.get("fedmllm")
    options = section.get("data") if isinstance(section, Mapping) else None
    own = isinstance(data, Mapping) and data.get("type") == "own"
    return options if own and isinstance(options, Mapping) else {}


def resampled_by(settings: Mapping[str, Any], options: Mapping[str, Any]) -> tuple[str, ...]:
    """As :attr:`fs_fedmllm.config.Config.resampled_by`, of a configuration of one's own data as it was written."""
    if not options:
        return ()
    args, split = settings["data"].get("splitter_args"), options.get("split")
    first = args[0] if isinstance(args, list) and args and isinstance(args[0], Mapping) else {}
    together = split.get("together") if isinstance(split, Mapping) else None
    return column_names(first.get("keep_together")) or column_names(together)


def _form(options: Mapping[str, Any]) -> RowForm:
    columns, absent = options.get("columns"), options.get("absent")
    return RowForm(
        {str(k): str(v) for k, v in columns.items() if v} if isinstance(columns, Mapping) else {},
        str(options.get("image_root") or ""),
        frozenset(map(str, absent)) if isinstance(absent, list) else frozenset(),
        str(options.get("delimiter") or ""),
        str(options.get("encoding") or ""),
        options.get("follow_links") is True,
    )
