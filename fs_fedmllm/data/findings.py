"""What a look at the data turned up: the first error stops a run, ``data check`` collects them all."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from fs_fedmllm.errors import DataError, FedMLLMError, readable

Row = TypeVar("Row")
Made = TypeVar("Made")

#: At most this many errors are kept, so that a wrong image folder does not print 13,000 lines.
MAX_ERRORS = 1000


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the table of ``data check``."""

    severity: str  # "error", "warning", or "note": said by data check alone
    file: str
    row: str
    problem: str
    remedy: str


class RowError(DataError):
    """A file or row is wrong.

    Args:
        where: ``file`` or ``file:line``.
        problem: what is wrong, one sentence.
        remedy: what to do about it, one sentence.
    """

    def __init__(self, where: str, problem: str, remedy: str) -> None:
        super().__init__(f"{where}: {problem} {remedy}".strip())
        self.where, self.problem, self.remedy = where, problem, remedy

    def __reduce__(self) -> tuple[type, tuple[str, str, str]]:
        return type(self), (self.where, self.problem, self.remedy)  # errors cross process borders in loaders


class TooManyErrorsError(DataError):
    """The collection is full; more of the same would help nobody."""


def as_finding(error: FedMLLMError) -> Finding:
    """An error as a line of the table."""
    if not isinstance(error, RowError):
        return Finding("error", "", "", str(error), "")
    problem, remedy = readable(error.problem), readable(error.remedy)
    file, colon, row = error.where.rpartition(":")
    if not (colon and row[:1].isdigit()):
        file, row = error.where, ""
    return Finding("error", readable(file), row, problem, remedy)


class Findings:
    """Collects warnings, and errors too unless ``strict``, in which case the first error is raised."""

    def __init__(self, strict: bool = True) -> None:
        self.strict = strict
        self.items: list[Finding] = []
        self._errors = 0

    def error(self, error: DataError) -> None:
        """Raise the error, or keep it if this collection is not strict."""
        if self.strict:
            raise error
        self.items.append(as_finding(error))
        self._errors += 1
        if self._errors >= MAX_ERRORS:
            raise TooManyErrorsError(f"Stopped after {MAX_ERRORS:,} errors.")

    def warn(self, file: str, problem: str, remedy: str = "") -> None:
        """Note something that the user should read but that stops nothing."""
        self.items.append(Finding("warning", readable(file), "", readable(problem), readable(remedy)))

    def note(self, file: str, problem: str) -> None:
        """Note something that is in order, for the reader of ``data check``; a run does not say it."""
        self.items.append(Finding("note", readable(file), "", readable(problem), ""))

    def expect_count(self, file: str, what: str, found: int, published: int) -> None:
        """Warn if a count differs from the published one."""
        if found != published:
            self.warn(
                file,
                f"{found:,} {what} where the published set has {published:,}.",
                "Results are comparable with the paper only on the published set.",
            )

    @property
    def warnings(self) -> tuple[str, ...]:
        """The warnings as sentences, for ``Dataset.warnings``."""
        texts = (" ".join(filter(None, (f.problem, f.remedy))) for f in self.items if f.severity == "warning")
        files = (f.file for f in self.items if f.severity == "warning")
        return tuple(f"{file}: {text}" if file else text for file, text in zip(files, texts, strict=True))


def convert(rows: Iterable[tuple[str, Row]], make: Callable[[Row, str], Made | None], found: Findings) -> list[Made]:
    """Turn each ``(where, row)`` into what ``make(row, where)`` says; None leaves the row out."""
    made: list[Made] = []
    for where, row in rows:
        try:
            item = make(row, where)
        except DataError as error:
            found.error(error)
            continue
        if item is not None:
            made.append(item)
    return made
