"""What a proposal is made of: what the user said, guesses with their reasons, doubts and warnings."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from fs_fedmllm.data.client_names import shown_name
from fs_fedmllm.tools.init.headings import has
from fs_fedmllm.tools.init.looking import Column, Look

#: Columns that the user can name: option of the command -> what it is.
ROLES = {
    "image": "image",
    "text": "text",
    "label": "label",
    "question": "row's question",
    "answer": "answer",
    "id": "id",
    "split": "split",
    "group": "kept together",
    "site": "clients",
}


@dataclass(frozen=True)
class Told:
    """What the user said, so that it is not guessed.

    Attributes:
        columns: role -> name of a column, or empty for none.
        task: ``choice`` or ``vqa``; empty to guess.
        options: of a choice; empty to take the labels.
        ask: what every row is asked; empty to guess.
        shares: ``val`` and ``test``, 0..1.
        clients: how many, where no column says who they are; 0 takes four.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    task: str = ""
    options: tuple[str, ...] = ()
    ask: str = ""
    shares: Mapping[str, float] = field(default_factory=dict)
    clients: int = 0


@dataclass(frozen=True)
class Guess:
    """What one thing is taken to be."""

    what: str
    value: str
    why: str


@dataclass(frozen=True)
class Doubt:
    """What cannot be told.

    Attributes:
        option: of the command that answers it.
        question: to ask.
        choices: answers to choose from; empty where any text will do.
    """

    option: str
    question: str
    choices: tuple[str, ...] = ()


@dataclass
class Proposal:
    """All guesses together.

    Attributes:
        columns: role -> column; a role without one is absent.
        task: ``choice`` or ``vqa``.
        options: of a choice, in letter order.
        ask: the question that every row is asked; empty where rows bring their own.
        image_root: folder below the data root that image paths begin at.
        absent: texts that mean that nothing is there.
        shares: of the rows for ``val`` and ``test``, where nothing says it.
        clients: how many, where no column says who they are; else 0.
        judged: the split that picks the best round.
        guesses: with reasons, in the order to show.
        reasons: of the columns, by role.
        doubts: what has to be answered first.
        warnings: what the user should know, a sentence each.
    """

    columns: dict[str, str] = field(default_factory=dict)
    task: str = ""
    options: tuple[str, ...] = ()
    ask: str = ""
    image_root: str = ""
    absent: tuple[str, ...] = ()
    shares: dict[str, float] = field(default_factory=dict)
    clients: int = 0
    judged: str = "val"
    guesses: list[Guess] = field(default_factory=list)
    reasons: dict[str, str] = field(default_factory=dict)
    doubts: list[Doubt] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def say(self, what: str, value: str, why: str) -> None:
        """Note a guess; one of the same thing is replaced."""
        made = Guess(what, value, why)
        places = [i for i, guess in enumerate(self.guesses) if guess.what == what]
        if places:
            self.guesses[places[0]] = made
        else:
            self.guesses.append(made)


class Draft:
    """A proposal in the making.

    Attributes:
        made: the proposal so far.
        taken: columns whose meaning is known.
        same: the question that every row brings; empty where they bring none, or several.
    """

    def __init__(self, found: Look, told: Told):
        self.found, self.told, self.made, self.same = found, told, Proposal(), ""
        self.taken: set[str] = {name for name in told.columns.values() if name}

    def said(self, role: str) -> bool:
        """Whether the user said which column it is; noted if so."""
        if role not in self.told.columns:
            return False
        name = self.told.columns[role]
        if name:
            self.made.columns[role] = name
            self.made.reasons[role] = f"--{role} said so"
        self.made.say(ROLES[role], name or "none", f"you said so (--{role})")
        return True

    def take(self, role: str, column: Column, why: str) -> None:
        """Decide that a column is it."""
        self.made.columns[role] = column.name
        self.made.reasons[role] = why
        self.taken.add(column.name)
        self.made.say(ROLES[role], column.name, why)

    def free(self) -> list[Column]:
        """Columns with values whose meaning is not known."""
        return [column for column in self.found.columns.values() if column.name not in self.taken and column.seen]

    def named(self, words: Collection[str]) -> list[Column]:
        """Those of them with one of the words in their names."""
        return [column for column in self.free() if has(column.name, words)]

    def doubt(self, option: str, question: str, choices: Sequence[str]) -> None:
        """Leave it to the user."""
        self.made.doubts.append(Doubt(option, question, tuple(choices)))


def natural(value: str) -> tuple[bool, float, str]:
    """To sort by: whole numbers by their size, before anything else by its characters."""
    number = value.isascii() and value.isdigit()
    return not number, float(value) if number else 0.0, value


def listed(values: Collection[str], most: int = 5) -> str:
    """The first few values, and how many more there are."""
    shown = [shown_name(value, 24) for value in sorted(values, key=natural)[:most]]
    return ", ".join(shown) + (f" and {len(values) - most:,} more" if len(values) > most else "")
