"""Which column is what: a guess for each, with its reason, in an order in which each leaves fewer to guess from."""

from __future__ import annotations

from fs_fedmllm.data.client_names import shown_name
from fs_fedmllm.data.column_words import NO_TEXT_WORDS
from fs_fedmllm.errors import ConfigError
from fs_fedmllm.tools.init import headings
from fs_fedmllm.tools.init.answers import choose_task, turns_of
from fs_fedmllm.tools.init.dealing import choose_clients, choose_group, choose_shares, choose_split
from fs_fedmllm.tools.init.looking import Look
from fs_fedmllm.tools.init.pictures import choose_image, say_left_out
from fs_fedmllm.tools.init.proposal import ROLES, Draft, Proposal, Told


def propose(found: Look, told: Told) -> Proposal:
    """Guess what is what. Nothing is read or written.

    Args:
        found: what the rows hold.
        told: what the user said.

    Raises:
        ConfigError: the user names a column that there is not, or no choice can be made of the labels.
    """
    for role, name in told.columns.items():
        if name and name not in found.columns:
            here = ", ".join(map(shown_name, found.columns))
            raise ConfigError(f"--{role} {name}: there is no such column. Columns here: {here}.")
    draft = Draft(found, told)
    draft.taken |= turns_of(draft)
    choose_split(draft)
    choose_image(draft)
    choose_task(draft)
    _choose_text(draft)
    _choose_id(draft)
    choose_group(draft)
    choose_clients(draft)
    choose_shares(draft)
    _say_absent(draft)
    _say_unread(draft)
    if not found.whole:
        draft.made.warnings.append(
            f"Only the first {found.total:,} rows were looked at: labels and names further down are not known. "
            "fs-fedmllm data check looks at all."
        )
    return draft.made


def _choose_text(draft: Draft) -> None:
    made = draft.made
    if turns_of(draft) or draft.said("text"):
        return
    free = [column for column in draft.free() if "str" in column.kinds]
    named = [c for c in free if headings.has(c.name, headings.TEXT) and not headings.has(c.name, NO_TEXT_WORDS)
             and not c.numbers]  # fmt: skip
    prose = [c for c in free if c.prose and c.mostly(c.prose)]
    exact = [c for c in named if c.name.lower() == "text"]
    for column in exact or named[:1] or prose[:1]:
        why = "its name says so" if column in named else "it holds sentences"
        more = [shown_name(c.name) for c in free if c is not column and (c in named or c in prose)]
        if more:
            made.warnings.append(
                f"Only one column can be the text. {', '.join(more)} could be, too (--text); join them if both matter."
            )
        return draft.take("text", column, why)
    if "image" not in made.columns and "question" not in made.columns and not made.doubts:
        draft.doubt("text", "Which column holds the text?", [column.name for column in free])
    else:
        made.say(ROLES["text"], "none", "no column is called like a text or holds sentences")


def _choose_id(draft: Draft) -> None:
    if draft.found.layout == "classes" or draft.said("id"):
        return
    likely = [c for c in draft.named(headings.ID) if c.unique and c.seen == draft.found.total
              and not headings.has(c.name, headings.PRIVATE)]  # fmt: skip
    exact = [c for c in likely if c.name.lower() == "id"] or likely[:1]
    if exact:
        draft.take("id", exact[0], "it is another one in every row")


def _say_absent(draft: Draft) -> None:
    made, columns = draft.made, draft.found.columns
    words: dict[str, str] = {}
    for role in ("image", "text"):
        if (name := made.columns.get(role, "")) in columns:
            words |= dict.fromkeys(columns[name].nothing, name)
    label = columns.get(made.columns.get("label", ""))
    kept = [word for word in words if label is None or word not in label.values]
    if kept:
        made.absent = tuple(kept)
        where = ", ".join(sorted(set(words.values())))
        made.say("absent", ", ".join(kept), f"stands in {where} where there is nothing")


def _say_unread(draft: Draft) -> None:
    say_left_out(draft)
    if unread := draft.free():
        draft.made.say("not read", ", ".join(shown_name(c.name) for c in unread), "nothing says what for")
