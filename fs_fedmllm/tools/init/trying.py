"""A proposal tried on all rows before anything is written: what would be refused, and a split that they allow."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fs_fedmllm import config as schema
from fs_fedmllm.config import Config
from fs_fedmllm.data.client_names import shown_name
from fs_fedmllm.data.dividing import check_division, divide
from fs_fedmllm.data.findings import Finding, Findings, as_finding
from fs_fedmllm.data.grouping import grouped
from fs_fedmllm.data.sample import Dataset, Sample
from fs_fedmllm.errors import ConfigError, DataError, FedMLLMError
from fs_fedmllm.scenarios.federated_data import counted_in, deal_data
from fs_fedmllm.scenarios.reading import read_dataset
from fs_fedmllm.text_columns import capital
from fs_fedmllm.tools.init.looking import Look
from fs_fedmllm.tools.init.proposal import Proposal, Told
from fs_fedmllm.tools.init.writing import config_yaml, template_yaml

#: Shares that are tried where the usual ones give some split no row.
LARGER = (0.2, 0.25, 0.33, 0.5)
#: How the error begins that says that some split gets no row; what is proposed is then another split.
_UNDIVIDED = "own: split:"
#: Kinds of errors that are shown.
_MOST = 3


@dataclass(frozen=True)
class Trial:
    """What a run would refuse.

    Attributes:
        errors: one for each row that is wrong, and those of no row.
        rows: how many rows are wrong.
        more: whether there may be more of them than were counted.
    """

    errors: Sequence[Finding] = ()
    rows: int = 0
    more: bool = False

    def __bool__(self) -> bool:
        return bool(self.errors)

    def lines(self, total: int) -> list[str]:
        """What to say of it, the number of rows first."""
        count = f"{self.rows:,}{' or more' if self.more else ''}"
        lines = (
            [f"{count} of {total:,} rows would be refused as they are:"] if self.rows else ["A run would refuse it:"]
        )
        kinds = grouped(self.errors)
        for found in kinds[:_MOST]:
            place = f"{found.file}:{found.row}" if found.row else found.file
            lines.append("  " + " ".join(filter(None, [f"{place}:" if place else "", found.problem, found.remedy])))
        if len(kinds) > _MOST:
            lines.append(f"  and {len(kinds) - _MOST:,} more of other kinds (fs-fedmllm data check lists all)")
        return lines


class _TooFewError(ConfigError):
    """No split gives every part a row."""


def tried(proposal: Proposal, found: Look, told: Told) -> tuple[Proposal, Trial]:
    """Read and deal all rows as the proposal says, and fit its split and its clients to what they allow.

    Args:
        proposal: without doubts.
        found: whose rows.
        told: shares and clients that the user said stand as they are.

    Raises:
        ConfigError: the rows are too few for any split.
    """
    with tempfile.TemporaryDirectory() as folder:
        try:
            config = _config(proposal, found, folder)
            dataset, errors, more = _read(config)
            if dataset is not None and not errors and (fitted := _fitted(proposal, dataset, told)) is not proposal:
                proposal, config = fitted, _config(fitted, found, folder)
                dataset, errors, more = _read(config)
        except _TooFewError:
            raise
        except ConfigError as error:
            dataset, errors, more = None, [as_finding(error)], False
        if dataset is not None and not errors:
            errors = _dealt(config, dataset)
        errors = [_without(item, folder) for item in errors]
    rows = len({(item.file, item.row) for item in errors if item.row})
    return proposal, Trial(tuple(errors), rows, more)


def _config(proposal: Proposal, found: Look, folder: str) -> Config:
    template, config = Path(folder) / "template.yaml", Path(folder) / "config.yaml"
    template.write_text(template_yaml(proposal, "rows"), encoding="utf-8")
    root = str(found.root.resolve())
    config.write_text(config_yaml(proposal, found, root=root, template=str(template), about="rows"), encoding="utf-8")
    return schema.load(config)


def _read(config: Config) -> tuple[Dataset | None, list[Finding], bool]:
    """The data set, what is wrong with its rows beside a split that gives none, and whether there may be more."""
    found, dataset, more = Findings(strict=False), None, False
    try:
        dataset = read_dataset(config, found)
    except DataError as error:
        more = any(item.severity == "error" for item in found.items)
        if not more:
            found.items.append(as_finding(error))
    except FedMLLMError as error:
        found.items.append(as_finding(error))
    errors = [item for item in found.items if item.severity == "error"]
    return dataset, [item for item in errors if not item.problem.startswith(_UNDIVIDED)], more


def _fitted(proposal: Proposal, dataset: Dataset, told: Told) -> Proposal:
    """The proposal with shares that give every split a row, and no more clients than groups that are trained on."""
    made, train, group = proposal, dataset.train, proposal.columns.get("group", "")
    if any(not getattr(dataset, part) for part in proposal.shares):
        shares, train = _shares_that_do(proposal, dataset.train, told)
        made = _with_shares(proposal, shares, len(dataset.train))
    if made.clients and not told.clients:
        units = len({row.keys.get(group, row.id) for row in train}) if group else len(train)
        if made.clients > max(1, units):
            made = replace(made, clients=max(1, units), guesses=list(made.guesses))
            what = f"values of {shown_name(group)}" if group else "rows"
            made.say(
                "clients", str(made.clients), f"so many {what} are left to train on; rows are distributed at random"
            )
    return made


def _shares_that_do(
    proposal: Proposal, rows: Sequence[Sample], told: Told
) -> tuple[dict[str, float], Sequence[Sample]]:
    """The smallest shares that give every split a row, and the rows that are then trained on."""
    group = proposal.columns.get("group", "")
    for share in LARGER:
        shares = {part: told.shares.get(part, share) for part in proposal.shares}
        try:
            parts = divide(rows, check_division(shares | ({"together": group} if group else {})))
        except ConfigError:  # no row for one of them, or none to train on
            continue
        return shares, parts["train"]
    raise _too_few(rows, proposal, told)


def _with_shares(proposal: Proposal, shares: dict[str, float], rows: int) -> Proposal:
    made = replace(proposal, shares=shares, guesses=list(proposal.guesses), warnings=list(proposal.warnings))
    group = proposal.columns.get("group", "")
    for part, share in shares.items():
        made.say(f"{part} rows", f"{100 * share:g} %", "a smaller share would be no row")
    apart = f", those of one {shown_name(group)} in one split," if group else ""
    made.warnings.append(
        f"{rows:,} rows{apart} are too few for the usual shares. So few test rows say nothing of a model: this is to "
        "try the way, not to judge."
    )
    return made


def _too_few(rows: Sequence[Sample], proposal: Proposal, told: Told) -> _TooFewError:
    """Why no split is proposed, and what the user can do."""
    names = {"val": "validation", "test": "test"}
    *parts, last = ["training", *(names[part] for part in proposal.shares)]
    count = "1 row is" if len(rows) == 1 else f"{len(rows):,} rows are"
    group = proposal.columns.get("group", "")
    together = "rows with the same picture or text"
    if group:
        together = f"rows of one {shown_name(group)}, of which there are {len({row.keys[group] for row in rows}):,},"
    said = " ".join(f"--{part} {share:g}" for part, share in told.shares.items() if share)
    ways = [f"leave out {said}"] if said else []
    ways += ["give more rows", *(["leave one part out (--val 0)"] if len(proposal.shares) > 1 else [])]
    ways += ["say --group '' if they may be apart"] if group else []
    remedy = ", ".join([*ways, "or say in a column named split which row is train, val or test."])
    return _TooFewError(
        f"{count} too few to divide into {', '.join(parts)} and {last} rows ({together} stay in one split), so no "
        f"split is proposed and nothing was written. {capital(remedy)}"
    )


def _dealt(config: Config, dataset: Dataset) -> list[Finding]:
    try:
        deal_data(counted_in(config, dataset), dataset)
    except FedMLLMError as error:
        return [as_finding(error)]
    return []


def _without(found: Finding, folder: str) -> Finding:
    """A finding that does not name the folder that is gone."""
    return replace(found, **{
        name: getattr(found, name).replace(f"{folder}/", "") for name in ("file", "problem", "remedy")
    })  # fmt: skip
