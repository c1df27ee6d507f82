"""What came of judging: every row is accounted for, and accuracy is given with its bounds."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from fs_fedmllm.tools.judge.budget import Usage

STATES = ("correct", "wrong", "unparsable", "failed", "not_asked")


@dataclass(frozen=True)
class RowVerdict:
    """One row's outcome.

    Attributes:
        id, kind: of the row.
        state: ``correct``, ``wrong``, ``unparsable`` (two replies that cannot be read), ``failed`` (the endpoint gave
            no reply) or ``not_asked`` (the run stopped first).
        text: the last reply, or what went wrong.
        cached: the verdict was there before this run.
    """

    id: str
    kind: str
    state: str
    text: str = ""
    cached: bool = False

    @property
    def verdict(self) -> bool | None:
        """True, False, or None where there is no verdict."""
        return {"correct": True, "wrong": False}.get(self.state)


@dataclass(frozen=True)
class Scores:
    """Accuracies of some rows, as shares; None where there is nothing to divide by.

    Attributes:
        rows: how many.
        counts: state -> rows.
        accuracy: correct among the rows that were answered; an unparsable verdict counts as not correct.
        parsed_accuracy: correct among correct and wrong, as the authors compute it.
        low: if every row without a verdict were wrong.
        high: if every row without a verdict were correct.
    """

    rows: int
    counts: dict[str, int]
    accuracy: float | None
    parsed_accuracy: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class JudgeReport:
    """Result of :func:`~fs_fedmllm.tools.judge.runner.judge_answers`.

    Attributes:
        model: asked for.
        prompt: version of the wording, with temperature and seed.
        output: how JSON was asked for: ``json_schema``, ``json_object``, ``text``; empty if all came from the cache
            and no form was recorded.
        verdicts: one for each row, in the order given.
        stopped: why the run ended before the last row; empty if it did not. Run again to go on.
        requests: sent by this run.
        retries: of these, how many repeated a request that failed.
        usage: tokens that the verdicts of these rows were charged, earlier runs included.
        unconfirmed: upper bound of tokens of requests that may have been charged although no reply arrived.
        cost, unconfirmed_cost: the same in the currency of the prices; None without prices.
        served: model that the endpoint says it used -> rows.
        seconds: that this run took.
    """

    model: str
    prompt: str
    output: str
    verdicts: tuple[RowVerdict, ...]
    stopped: str = ""
    requests: int = 0
    retries: int = 0
    usage: Usage = field(default_factory=Usage)
    unconfirmed: Usage = field(default_factory=Usage)
    cost: float | None = None
    unconfirmed_cost: float | None = None
    served: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def complete(self) -> bool:
        """Whether every row has been answered, readably or not."""
        return not any(row.state in ("failed", "not_asked") for row in self.verdicts)

    @property
    def scores(self) -> Scores:
        """Of all rows."""
        return scores(self.verdicts)

    def by_kind(self) -> dict[str, Scores]:
        """Of each slice (``open``, ``closed``) that occurs."""
        kinds = sorted({row.kind for row in self.verdicts if row.kind})
        return {kind: scores([row for row in self.verdicts if row.kind == kind]) for kind in kinds}

    def to_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        numbers = dataclasses.asdict(self)
        numbers["complete"] = self.complete
        numbers["scores"] = dataclasses.asdict(self.scores)
        numbers["by_kind"] = {kind: dataclasses.asdict(value) for kind, value in self.by_kind().items()}
        return numbers


def scores(rows: Sequence[RowVerdict]) -> Scores:
    """Count the states and divide."""
    found = Counter(row.state for row in rows)
    counts = {state: found[state] for state in STATES}
    correct, wrong = counts["correct"], counts["wrong"]
    return Scores(
        rows=len(rows),
        counts=counts,
        accuracy=_share(correct, correct + wrong + counts["unparsable"]),
        parsed_accuracy=_share(correct, correct + wrong),
        low=_share(correct, len(rows)),
        high=_share(len(rows) - wrong, len(rows)),
    )


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
