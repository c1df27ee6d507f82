"""Which rows stay together, who the clients are, and how many rows are for validation and test."""

from __future__ import annotations

from fs_fedmllm.data.client_names import shown_name
from fs_fedmllm.data.own_rows import SPLITS
from fs_fedmllm.errors import ConfigError
from fs_fedmllm.quoting import shell_option, yaml_list
from fs_fedmllm.tools.init import headings
from fs_fedmllm.tools.init.proposal import ROLES, Draft, listed

#: Clients where the rows name none.
CLIENTS = 4
#: Shares of the rows where nothing says which they are.
USUAL = {"val": 0.1, "test": 0.2}


def choose_split(draft: Draft) -> None:
    """Take the column that says which split a row is in."""
    if draft.said("split"):
        return
    for column in draft.named(headings.SPLIT):
        if not column.many and {value.lower() for value in column.values} <= SPLITS.keys():
            return draft.take("split", column, f"its values are {listed(column.values)}")


def choose_group(draft: Draft) -> None:
    """Take the column whose rows stay together: a person before what one has several of."""
    if draft.said("group"):
        return
    total = draft.found.total
    likely = [c for c in draft.named(headings.GROUP) if c.repeats and c.seen == total]
    if not likely:
        return draft.made.say(ROLES["group"], "none", "no column is called like one and has a value in several rows")
    best = next((column for column in likely if headings.has(column.name, headings.PERSON)), likely[0])
    count = "many" if best.many else f"{len(best.values):,}"
    others = [column.name for column in likely if column is not best]
    draft.take("group", best, f"its name says so; {count} different ones in {total:,} rows")
    if others:
        draft.made.warnings.append(
            f"{', '.join(map(shown_name, others))} could keep rows together, too: {shell_option('group', others[0])}, "
            f"or both, as in split: {{together: {yaml_list([best.name, others[0]])}}} in the configuration."
        )


def choose_clients(draft: Draft) -> None:
    """Take the column of clients, or a number of them that the rows are enough for."""
    found, made, told = draft.found, draft.made, draft.told
    why = "no column is called like a hospital or a site"
    if not draft.said("site") and told.clients == 0:
        likely = [c for c in draft.named(headings.SITE) if c.repeats and not c.many and 2 <= len(c.values) <= 1000]
        full = [c for c in likely if c.seen == found.total]
        if full:
            best = full[0]
            draft.take("site", best, f"its name says so; {len(best.values):,} different ones: "
                       f"{listed(best.values)}")  # fmt: skip
        elif likely:
            best = max(likely, key=lambda column: column.seen)
            lacking = found.total - best.seen
            rows = "1 row lacks" if lacking == 1 else f"{lacking:,} rows lack"
            why = f"{shown_name(best.name)} could say who they are, but {rows} it"
            made.warnings.append(
                f"{rows} {shown_name(best.name)}, so it is not taken for the clients. Fill it in, or take those rows "
                f"out, and run init again; or say {shell_option('site', best.name)}: training rows alone need it."
            )
    if "site" not in made.columns:
        group = found.columns.get(made.columns.get("group", ""))
        units = len(group.values) if group is not None and not group.many else found.total
        # a third of the units is for validation and test
        made.clients = told.clients or max(1, min(CLIENTS, units // 3))
        why = "you said so (--clients)" if told.clients else why
        made.say("clients", str(made.clients), f"{why}; rows are distributed over them at random")


def choose_shares(draft: Draft) -> None:
    """Decide which shares of the rows are for validation and test, where nothing says which rows are.

    Raises:
        ConfigError: the user gives a share to a split that has rows.
    """
    made, found = draft.made, draft.found
    there = {split for split in found.rows if split}
    if "split" in made.columns:
        column = found.columns[made.columns["split"]]
        there |= {SPLITS[value.lower()] for value in column.values if value.lower() in SPLITS}
    made.shares = {part: share for part, share in USUAL.items() if part not in there}
    for part, share in draft.told.shares.items():
        if part in there and share:
            raise ConfigError(f"--{part} {share:g}: there are {part} rows already. Leave it out.")
        made.shares[part] = share
    made.shares = {part: share for part, share in made.shares.items() if share}
    for part in ("val", "test"):
        if part in there:
            made.say(f"{part} rows", "those of the data", "a column or a file says which they are")
        elif part in made.shares:
            group = made.columns.get("group", "")
            why = f"rows of one {shown_name(group)} stay together" if group else "nothing says which they are"
            made.say(f"{part} rows", f"{100 * made.shares[part]:g} %", why)
    made.judged = "val" if "val" in there or "val" in made.shares else "test"
