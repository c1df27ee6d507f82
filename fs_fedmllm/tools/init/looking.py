"""What a file or folder of rows holds, column by column, read within bounds."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fs_fedmllm.data.column_words import is_phrase, is_prose
from fs_fedmllm.data.columns import NOTHING, missing, pictured
from fs_fedmllm.data.findings import Findings, RowError
from fs_fedmllm.data.own_files import UTF8, Source, find_sources, is_read, is_table, read_source
from fs_fedmllm.data.row_values import Row
from fs_fedmllm.data.table_form import TableForm
from fs_fedmllm.errors import ConfigError, DataError
from fs_fedmllm.quoting import shell_word
from fs_fedmllm.tools.init import headings
from fs_fedmllm.tools.init.places import are_images

#: Rows that are read at most, and bytes of their values, over all files.
MOST_ROWS, MOST_BYTES = 50_000, 128 << 20
#: Bytes that a cell costs beside its value, about.
_CELL = 64
#: Different values of a column that are counted, and values that are looked at.
MOST_VALUES, SAMPLED = 2_000, 64
#: Options of the command that say how tables are written, and an example of each.
_FORM = {"encoding": "cp1252", "delimiter": "semicolon"}
_SAID = re.compile(r"(encoding|delimiter): ([\w-]+)\}")
_SLASH = re.compile(r"[^/\\][/\\][^/\\]")
_WHOLE = re.compile(r"\d{1,6}(\.0+)?")
#: A number with places behind its point, or comma.
_FRACTION = re.compile(r"[-+]?\d+[.,]\d+\s*([%\w°]{1,3})?")


@dataclass(eq=False)
class Column:
    """What a column has held.

    Attributes:
        name: of the column.
        seen: rows that have a value.
        values: how often each value stands, stripped, as text; of the first ``MOST_VALUES`` different ones.
        many: whether there are more than those.
        sample: the first values, as they are.
        pictures: of the sample, how many are images or names of image files.
        prose: of the sample, how many are sentences.
        phrases: of the sample, how many are several words.
        longest: characters of the longest value.
        kinds: names of the values' types.
        nothing: texts that people write where there is nothing, as they are written.
        padded: rows whose value has blanks before or after it.
    """

    name: str
    seen: int = 0
    values: Counter[str] = field(default_factory=Counter)
    many: bool = False
    sample: list[Any] = field(default_factory=list)
    pictures: int = 0
    prose: int = 0
    phrases: int = 0
    longest: int = 0
    kinds: set[str] = field(default_factory=set)
    nothing: Counter[str] = field(default_factory=Counter)
    padded: int = 0

    def note(self, value: Any) -> None:
        """Take one row's value into account."""
        if missing(value):
            return
        self.seen += 1
        self.kinds.add(type(value).__name__)
        if len(self.sample) < SAMPLED:
            self.sample.append(_short(value))
            self.pictures += pictured(value)
            self.prose += isinstance(value, str) and is_prose(value)
            self.phrases += isinstance(value, str) and not pictured(value) and is_phrase(value)
        if not isinstance(value, str | int | float):
            self.many = True
            return
        text = str(value).strip()
        self.padded += isinstance(value, str) and value != text
        self.longest = max(self.longest, len(text))
        if text.lower() in NOTHING:
            self.nothing[text] += 1
        if text in self.values or len(self.values) < MOST_VALUES:
            self.values[text if len(text) <= 200 else f"{text[:200]}..."] += 1
        else:
            self.many = True

    @property
    def repeats(self) -> bool:
        """Whether values stand in more than one row."""
        return self.many or any(count > 1 for count in self.values.values())

    @property
    def unique(self) -> bool:
        """Whether no value that was counted stands twice, and all are counted."""
        return not self.many and len(self.values) == self.seen

    @property
    def numbers(self) -> bool:
        """Whether every value is a whole number of 0 or more, however it is written."""
        return not self.many and bool(self.values) and all(_WHOLE.fullmatch(value) for value in self.values)

    @property
    def measured(self) -> bool:
        """Whether values are numbers with fractions, as measurements are and classes are not: ``36,5``."""
        fractions = [value for value in self.values if _FRACTION.fullmatch(value)]
        return not self.numbers and len(fractions) > 1 and 2 * len(fractions) > len(self.values)

    def mostly(self, count: int) -> bool:
        """Whether that many of the sample are more than half of it."""
        return 2 * count > len(self.sample)


@dataclass
class Look:
    """What was seen.

    Attributes:
        root: the folder of the data (``data.root``).
        file: the one file in it that was named or found; empty where the usual names say what is read.
        sources: files and folders that are read.
        columns: by name, in their order.
        rows: that were read, by split; the split is empty where no file says it.
        refused: lines beside them that are no rows.
        whole: whether that is all there is.
        class_labels: names that a file declares for its labels, by column.
        notes: what the readers said.
        form: how tables are written, as the user said it.
    """

    root: Path
    file: str
    sources: Sequence[Source]
    columns: dict[str, Column] = field(default_factory=dict)
    rows: Counter[str] = field(default_factory=Counter)
    refused: int = 0
    whole: bool = True
    class_labels: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    form: TableForm = UTF8

    @property
    def total(self) -> int:
        """Rows that were read."""
        return self.rows.total()

    @property
    def layout(self) -> str:
        """``metadata`` or ``classes`` where folders of images are read; empty elsewhere."""
        return next((source.layout for source in self.sources if source.layout), "")


def look(path: Path, form: TableForm = UTF8) -> Look:
    """Read a file or folder of rows, at most ``MOST_ROWS`` and ``MOST_BYTES`` of it.

    Args:
        path: a file of rows, or a folder as ``data.type: own`` reads it, or one that holds a single file of rows.
        form: how tables are written.

    Raises:
        ConfigError: there is no such file or folder.
        DataError: nothing in it can be read; the message names the file and line.
    """
    if not path.exists():
        raise ConfigError(
            f"{path}: there is no such file or folder. Name a file of rows, or the folder that it is in."
        )
    root, file = (path, "") if path.is_dir() else (path.parent, path.name)
    if path.is_dir():
        try:
            sources = find_sources(root, "", {})
        except DataError:
            others = sorted(entry.name for entry in root.iterdir() if is_read(entry) and entry.is_file())
            if len(others) != 1:
                if len(others) > 1:
                    raise DataError(
                        f"{root} holds {', '.join(others[:8])}{' and more' if len(others) > 8 else ''}. Name the file "
                        f"that has the rows: fs-fedmllm init {shell_word(root / others[0])} (where each is of one "
                        "hospital, join them into one table, with a column that says whose a row is)."
                    ) from None
                raise
            file = others[0]
            sources = find_sources(root, file, {})
    else:
        sources = find_sources(root, file, {})
    if form != UTF8 and not any(is_table(source.path) for source in sources):
        raise ConfigError(
            f"--encoding and --delimiter are for CSV and TSV files, and {path} holds none. Take them out."
        )
    found = Look(root, file, sources, form=form)
    size = 0
    for place, source in enumerate(sources):
        findings = Findings(strict=False)
        share = max(1, (MOST_ROWS - found.total) // (len(sources) - place))
        found.class_labels |= source.class_labels
        for count, row in enumerate(_rows(source, findings, form)):
            if count >= share or size > MOST_BYTES:
                found.whole = False
                break
            found.rows[source.split] += 1
            for name, value in row.items():
                size += _CELL + _size(value)
                found.columns.setdefault(name, Column(name)).note(value)
        wrong = [item for item in findings.items if item.severity == "error"]
        if wrong and not found.total:
            where = ":".join(filter(None, (wrong[0].file, wrong[0].row)))
            raise RowError(where, wrong[0].problem, wrong[0].remedy)
        found.refused += len({item.row for item in wrong if item.row})
        # Of a file that is read to its end, the trial of the proposal counts what is wrong.
        told = [item for item in findings.items if item.severity != "error"] if found.whole else findings.items
        for item in told[:5]:
            line = f":{item.row}" if item.row else ""
            found.notes.append(f"{Path(item.file).name}{line}: {item.problem}")
    for column in found.columns.values():
        if _may_be_paths(column) and are_images(root, column.sample):
            column.pictures = len(column.sample)
    if not found.total:
        raise RowError(str(path), "there is no row in it.", "Fill the file in, or name another one.")
    return found


def _may_be_paths(column: Column) -> bool:
    """Whether values could be names of files that do not say what they are: ``series/IM00001``."""
    return (
        column.kinds == {"str"}
        and not column.pictures
        and not column.prose
        and column.longest <= 300
        and (headings.has(column.name, headings.IMAGE | headings.PATH) or all(map(_SLASH.search, column.sample)))
    )


def _short(value: Any) -> Any:
    """A value to look at: of bytes and of a long text the beginning."""
    if isinstance(value, str | bytes):
        return value[:500]
    if isinstance(value, dict):
        return {name: _short(item) for name, item in list(value.items())[:8]}
    return [_short(item) for item in value[:2]] if isinstance(value, list | tuple) else value


def _size(value: Any) -> int:
    if isinstance(value, str | bytes):
        return len(value)
    if isinstance(value, dict):
        return sum(map(_size, value.values()))
    return sum(map(_size, value)) if isinstance(value, list | tuple) else 8


def _rows(source: Source, findings: Findings, form: TableForm) -> Iterator[Row]:
    try:
        for _, row in read_source(source, findings, form):
            yield row
    except RowError as error:  # its remedy is a line of a configuration, which is not written yet
        told = dict(_SAID.findall(error.remedy))
        said = [f"--{option} {told.get(option, value)}" for option, value in _FORM.items()
                if f"{option}:" in error.remedy]  # fmt: skip
        if not said:
            raise
        raise RowError(error.where, error.problem, f"{error.remedy} For init: {' or '.join(said)}.") from error
