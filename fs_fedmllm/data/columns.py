"""Which column of your own data is which: the user's mapping, and columns that look like a field but go unread.

A file whose images are called ``image_path`` must not train on texts alone without a word. A column counts as a
modality by its name (``img``, ``caption``) or by its values (names of image files, sentences), and only if it never
stands beside the field that it looks like: a mask beside an image is nobody's mistake.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fs_fedmllm.config.nearest import nearest
from fs_fedmllm.data.column_words import (
    IMAGE_WORDS,
    NO_TEXT_WORDS,
    PATH_WORDS,
    REQUIRED_WORDS,
    TEXT_WORDS,
    is_prose,
    words_of,
)
from fs_fedmllm.data.findings import RowError
from fs_fedmllm.data.row_values import Row, text_of
from fs_fedmllm.errors import ConfigError

#: What a row can hold, and what ``columns`` can rename.
FIELDS = ("id", "image", "text", "question", "label", "answer", "kind")
#: Values of a column that are looked at; the rest are only counted.
SAMPLED = 64

_SUFFIXES = r"png|jpe?g|jfif|jp2|bmp|gif|tiff?|webp|p[bgnp]m|dcm|dicom|nii(\.gz)?|hei[cf]|avif|svg|mh[ad]"
_FILE = re.compile(rf"[^\n]{{1,500}}\.({_SUFFIXES})(\?[^\s]*)?", re.IGNORECASE)
_INLINE = ("data:image/", "iVBORw0KGgo", "/9j/", "R0lGOD")
_MAGIC = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"RIFF")


#: What people write where there is nothing; taken as text, but not without a word.
NOTHING = frozenset(
    (
        *("na", "n/a", "#n/a", "nan", "null", "none", "nil", "<na>"),
        *("#ref!", "#value!", "#name?", "#div/0!", "#num!", "#null!"),  # a spreadsheet's
    )
)


def missing(value: Any) -> bool:
    """Null, NaN (as pandas writes missing text), blanks and empty lists are all: not there."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return True
    return value != value if isinstance(value, float) else isinstance(value, list | tuple) and not value


def optional(row: Row, key: str, where: str) -> str | None:
    """A row's value as text; None where it has none."""
    return None if missing(row.get(key)) else text_of(row, key, where)


def without(row: Row, absent: Collection[str]) -> Row:
    """The row with null for texts that say that a value is not there."""
    return {k: None if isinstance(v, str) and v.strip() in absent else v for k, v in row.items()} if absent else row


def check_mapping(columns: Any) -> dict[str, str]:
    """The option ``columns``, checked.

    Raises:
        ConfigError: it is no mapping of fields to names of columns.
    """
    if not isinstance(columns, Mapping):
        raise ConfigError(f"own: columns must map fields to columns, such as {{image: image_path}}, not {columns!r}.")
    for name, column in columns.items():
        if name not in FIELDS:
            own = ". The column of the split has an option of its own, split_column."
            hint = own if name == "split" else nearest(str(name), FIELDS)
            raise ConfigError(f"own: columns has no field {name!r}{hint} Fields are {', '.join(FIELDS)}.")
        if not isinstance(column, str):
            raise ConfigError(f"own: columns.{name} must be the name of a column ('' for none), not {column!r}.")
    named = [column for column in columns.values() if column]
    twice = next((column for column in named if named.count(column) > 1), None)
    if twice is not None:
        raise ConfigError(f"own: columns names {twice!r} for two fields; a column has one meaning.")
    return dict(columns)


def no_column(columns: Mapping[str, str], here: Iterable[str]) -> ConfigError | None:
    """What to say where the option ``columns`` names a column that there is not; None where all are there.

    Args:
        columns: field to the name of its column.
        here: the columns that there are.
    """
    there = list(here)
    for name, column in columns.items():
        if column and column not in there:
            return ConfigError(f"own: columns.{name} is {column!r}, and {no_such(column, there)}")
    return None


def no_such(column: str, here: Sequence[str]) -> str:
    """What to say of a column that is not among those that are here, with the one that is spelt most alike."""
    listed = ", ".join(here[:40]) or "none"
    return f"there is no such column (columns here: {listed}){nearest(column, here)}"


def overshadowed(columns: Mapping[str, str], here: Collection[str]) -> dict[str, str]:
    """Fields that are read from another column although one of the file's is called like them."""
    return {
        name: column
        for name, column in columns.items()
        if column and column != name and name in here and name not in columns.values()
    }


def renamed(row: Row, columns: Mapping[str, str], where: str) -> Row:
    """The row with our names for its fields; ``images`` (TRL, Hugging Face) is another name of ``image``.

    Raises:
        DataError: ``image`` and ``images`` are both given.
    """
    if not columns and "images" not in row:
        return row
    made = {**row, **{name: row.get(column) if column else None for name, column in columns.items()}}
    if "image" not in columns and not missing(row.get("images")):
        if not missing(row.get("image")):
            raise RowError(where, "the row has image and images.", "Leave one of the two.")
        made["image"] = row["images"]
    return made


def one_image(value: Any, where: str) -> Any:
    """The one image of a list of one; anything else as it is, and None for an empty list.

    Raises:
        DataError: the list holds more than one.
    """
    if not isinstance(value, list | tuple):
        return value
    if len(value) > 1:
        remedy = "Only one image a row is supported: make a row of each, or join them into one picture."
        raise RowError(where, f"the row has {len(value)} images.", remedy)
    return value[0] if value else None


@dataclass
class _Column:
    """What a column that nobody reads has held so far."""

    seen: int = 0
    pictures: int = 0
    prose: int = 0
    words: int = 0
    turns: int = 0
    beside: set[str] = field(default_factory=set)
    first: Any = None
    varies: bool = False

    def note(self, value: Any, present: Collection[str]) -> None:
        self.seen += 1
        self.beside.update(present)
        if self.seen == 1:
            self.first = value
        elif not self.varies:
            self.varies = bool(value != self.first)
        if self.seen <= SAMPLED:
            self.turns += isinstance(value, list | tuple) and bool(value) and _spoken(value[0])
            self.pictures += pictured(value)
            text = " ".join(map(str, value)) if isinstance(value, list) else value
            if isinstance(text, str) and not pictured(text):
                self.words += any(letter.isalpha() for letter in text)
                self.prose += is_prose(text)

    def most(self, count: int) -> bool:
        return 2 * count > min(self.seen, SAMPLED)


def pictured(value: Any) -> bool:
    """Whether a value is an image, or looks like the name of one's file."""
    if isinstance(value, list | tuple):
        return bool(value) and pictured(value[0])
    if isinstance(value, Mapping):
        return not {"bytes", "path", "url"}.isdisjoint(value)
    if isinstance(value, bytes):
        return value.startswith(_MAGIC)
    return isinstance(value, str) and (value.startswith(_INLINE) or _FILE.fullmatch(value.strip()) is not None)


def _spoken(value: Any) -> bool:
    """Whether it is a turn of a conversation, as chat templates (or ShareGPT) have them."""
    return isinstance(value, Mapping) and ({"role", "content"} <= value.keys() or {"from", "value"} <= value.keys())


class UnreadColumns:
    """The columns of one file that nobody reads.

    Args:
        used: columns that somebody reads, beside the fields.
        columns: the user's mapping; a field that it names is known, and never looked for.
        wanted: fields that every row of the task needs.
    """

    def __init__(self, used: Collection[str], columns: Mapping[str, str], wanted: Collection[str] = ()):
        taken = {columns.get(name, name) for name in FIELDS}
        self._used = taken | set(used) | (set() if "image" in columns else {"images"})
        self._columns = columns
        self._wanted = tuple(wanted)
        if "question" not in columns and not {"question"} & {*wanted, *columns.values(), *used}:
            self._used.discard("question")  # a task with a question of its own shows none of the rows'
        self._found: dict[str, _Column] = {}
        self.fields: set[str] = set()
        #: Every column that some row has, in their order.
        self.names: dict[str, None] = {}

    def note(self, original: Row, row: Row, read: Collection[str] = ()) -> None:
        """Take a row into account.

        Args:
            original: as the file has it.
            row: the same with our names.
            read: columns that this row was read from beside those.
        """
        self._used.update(read)
        present = [name for name in FIELDS if not missing(row.get(name))]
        self.fields.update(present)
        for name, value in original.items():
            self.names[name] = None
            if name not in self._used and not missing(value):
                self._found.setdefault(name, _Column()).note(value, present)

    def reads(self, column: str) -> bool:
        """Whether the user's mapping names a column."""
        return column in self._columns.values()

    @property
    def unread(self) -> list[str]:
        """Names of the columns that nobody reads."""
        return [
            name
            for name in self.names
            if name not in self._used and (name != "question" or "question" in self._columns)
        ]

    def lookalikes(self) -> dict[str, list[str]]:
        """For each field that is not there: columns that look like it and never stand beside it."""
        alike: dict[str, list[str]] = {}
        for name, column in self._found.items():
            for meant in self._meanings(name, column):
                filled = {"label", "answer"} if meant == "label" else {meant}
                if column.beside.isdisjoint(filled) and self._columns.get(meant, "x"):
                    alike.setdefault(meant, []).append(name)
        return alike

    def _meanings(self, name: str, column: _Column) -> list[str]:
        words = words_of(name)
        if name == "question" and "question" not in self._wanted:  # one that all rows have alike tells nothing
            return ["text"] if column.words and column.varies and "question" not in self._columns else []
        same = [known for known in FIELDS if name.strip().casefold() == known]
        if same:
            return same
        if (words & IMAGE_WORDS and words <= IMAGE_WORDS | PATH_WORDS) or column.most(column.pictures):
            return ["image"]
        if column.most(column.turns):
            return ["text"]
        no_text = words & NO_TEXT_WORDS
        if not no_text and ((words & TEXT_WORDS and column.words) or column.most(column.prose)):
            return ["text"]
        return [wanted for wanted in self._wanted if wanted not in self.fields and words & REQUIRED_WORDS[wanted]]

    def fault(self, file: str, remedy: Callable[[Mapping[str, str]], str]) -> RowError | None:
        """What is wrong with the columns, in one paragraph, or None.

        Args:
            file: where.
            remedy: what to do, from the mapping that would put it right.
        """
        alike = self.lookalikes()
        if not alike:
            return None
        here = ", ".join(self.names)
        for meant in alike:
            if meant in self._columns and self._columns[meant] not in self.names:
                problem = f"columns.{meant} is {self._columns[meant]!r}, and "
                problem += no_such(self._columns[meant], list(self.names))
                return RowError(file, problem, "Give a column's name as it is written there.")
        said = [f"no {meant} beside {' or '.join(map(repr, names))}, which looks like it"
                for meant, names in alike.items()]  # fmt: skip
        problem = f"the rows have {', and '.join(said)} (columns here: {here})."
        spoken = [name for names in alike.values() for name in names if self._found[name].turns]
        if spoken:
            problem += f" {spoken[0]!r} holds conversations, turns in a list, which are not read."
            return RowError(
                file, problem, "Write what a row shows as its text (or question), and its label or answer, in columns "
                f"of their own; {{columns: {{text: ''}}}} says that the rows have no text, whatever {spoken[0]} holds."
            )  # fmt: skip
        guess = {meant: names[0] for meant, names in alike.items()}
        return RowError(file, problem, remedy({**self._columns, **guess}))
