"""Whether a judge says what exact match says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fs_fedmllm.evaluation.normalise import same_answer
from fs_fedmllm.tools.judge.config import JudgeError
from fs_fedmllm.tools.judge.report import JudgeReport
from fs_fedmllm.tools.judge.rows import JudgeRow

#: Order of the rows and columns of a confusion table.
VERDICTS = (True, False, None)


@dataclass(frozen=True)
class Agreement:
    """Two graders on the same rows.

    Attributes:
        rows: all rows.
        compared: rows on which both have a verdict; the next two are of these.
        accuracy: share on which they agree; None if there are none.
        kappa: Cohen's kappa (Cohen 1960), agreement beyond chance; None where it is 0/0 (both gave one and the same
            verdict throughout).
        confusion: 3 x 3 rows; first grader down, second across, in the order of :data:`VERDICTS`.
    """

    rows: int
    compared: int
    accuracy: float | None
    kappa: float | None
    confusion: tuple[tuple[int, ...], ...]


def agreement(first: Sequence[bool | None], second: Sequence[bool | None]) -> Agreement:
    """Compare two graders' verdicts, row by row; None is no verdict.

    Raises:
        JudgeError: they graded different numbers of rows.
    """
    if len(first) != len(second):
        raise JudgeError(f"Two graders are compared on the same rows; got {len(first)} and {len(second)}.")
    pairs = list(zip(first, second, strict=True))
    confusion = tuple(tuple(sum(pair == (a, b) for pair in pairs) for b in VERDICTS) for a in VERDICTS)
    both = [(a, b) for a, b in pairs if a is not None and b is not None]
    accuracy = sum(a == b for a, b in both) / len(both) if both else None
    return Agreement(len(pairs), len(both), accuracy, _kappa(both), confusion)


def with_exact_match(report: JudgeReport, rows: Sequence[JudgeRow]) -> Agreement:
    """The judge against exact match after normalisation, on the rows that it was given.

    Raises:
        JudgeError: the report is of other rows.
    """
    if [row.id for row in rows] != [row.id for row in report.verdicts]:
        raise JudgeError("The report and the rows do not belong together: their ids differ.")
    return agreement([row.verdict for row in report.verdicts], [same_answer(r.answer, r.reference) for r in rows])


def _kappa(pairs: Sequence[tuple[bool, bool]]) -> float | None:
    from sklearn.metrics import cohen_kappa_score

    if len({verdict for pair in pairs for verdict in pair}) < 2:
        return None
    return float(cohen_kappa_score([a for a, _ in pairs], [b for _, b in pairs]))
