"""Which column is what: a guess for each, with its reason, in an order in which each leaves fewer to guess from."""

from __future__ import annotations

from fs_fedmllm.data.client_names import shown_name
from fs_fedmllm.data.column_words import NO_TEXT_WORDS
from fs_fedmllm.errors import ConfigError
from fs_fedmllm.quoting import shell_option
from fs_fedmllm.tools.init import headings
from fs_fedmllm.tools.init.answers import choose_task, turns_of
from fs_fedmllm.tools.init.dealing import choose_clients, choose_group, choose_shares, choose_split
from fs_fedmllm.tools.init.looking import Look
from fs_fedmllm.tools.init.pictures import choose_image, say_left_out
from fs_fedmllm.tools.init.proposal import ROLES, Draft, Proposal, Told

#: What is called like this holds names, whatever their length: ``Klinikum am Park``.
_NO_PHRASES = (
    NO_TEXT_WORDS | headings.SITE | headings.GROUP | headings.SPLIT | headings.ID | headings.PRIVATE | headings.LABEL
    | headings.LIKE_LABEL | frozenset(("name", "names", "address", "adresse", "street", "strasse", "device", "drug"))
)  # fmt: skip


def propose(found: Look, told: Told) -> Proposal:
    """Guess what is what. Nothing is read or written.

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
    phrases = [c for c in free if c.phrases and c.mostly(c.phrases) and not headings.has(c.name, _NO_PHRASES)]
    exact = [c for c in named if c.name.lower() == "text"]
    # Where several columns hold phrases, and none is called a text, nothing says which it is.
    for column in exact or named[:1] or prose[:1] or (phrases if len(phrases) == 1 else []):
        why = "its name says so" if column in named else "it holds sentences" if column in prose else (
            "it holds phrases of several words, and no column is called like a text or holds sentences"
        )  # fmt: skip
        more = [shown_name(c.name) for c in free if c is not column and (c in named or c in prose)]
        if more:
            made.warnings.append(
                f"Only one column can be the text. {', '.join(more)} could be, too (--text); join them if both matter."
            )
        return draft.take("text", column, why)
    lacks = "image" not in made.columns and "question" not in made.columns and not made.doubts
    if lacks and not (phrases or free):
        here = ", ".join(map(shown_name, draft.found.columns))
        raise ConfigError(
            " ".join([*made.warnings, f"There is nothing to show a model: no column holds images or texts (columns "
                      f"here: {here}). Name one with --text or --image."])
        )  # fmt: skip
    if lacks:
        draft.doubt("text", "Which column holds the text?", [column.name for column in phrases or free])
    else:
        if phrases:
            made.warnings.append(
                f"{' and '.join(shown_name(c.name) for c in phrases)} hold phrases, and none is read: "
                f"if one is the text, say {' or '.join(shell_option('text', c.name) for c in phrases)}."
            )
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
