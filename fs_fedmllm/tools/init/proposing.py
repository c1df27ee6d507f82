"""Which column is what: a guess for each, with its reason. Nothing is read or written here."""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from fs_fedmllm.data.alike_labels import alike_sentences
from fs_fedmllm.data.client_names import shown_name
from fs_fedmllm.data.columns import IMAGE_WORDS, NO_TEXT_WORDS, PATH_WORDS, TEXT_WORDS, words_of
from fs_fedmllm.data.own_rows import SPLITS
from fs_fedmllm.data.template import LETTERS
from fs_fedmllm.errors import ConfigError
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


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_LABEL = _words(
    "label labels class classes category categories target y gold diagnosis outcome status grade severity infected "
    "finding verdict sentiment topic damage infection stage type klasse kategorie diagnose ergebnis schweregrad"
)
_GROUP = _words(
    "patient patients subject person participant user case study visit tweet animal specimen author speaker group "
    "encounter family pid mrn patientin patienten patientennummer fall"
)
_SITE = _words(
    "hospital hospitals site sites clinic centre center institution institute ward department station device scanner "
    "location region client clients organisation organization school city country event practice camera "
    "district province borough branch krankenhaus klinik station standort abteilung"
)
_SPLIT = _words("split splits subset partition fold set")
_QUESTION = _words("question questions query")
_PAIR = _words("input output")
_ANSWER = _words("answer answers response reference")
#: Rows of a conversation, which are read by themselves.
_TURNS = ({"messages"}, {"conversations"}, {"prompt", "completion"})
#: A day, as people and computers write it.
_DATE = re.compile(r"\d{4}-\d{1,2}-\d{1,2}\b|\d{1,2}([./-])\d{1,2}\1(\d{4}|\d\d)\b")
#: Clients where the rows name none, and rounds of a first run.
CLIENTS = 4


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
    """What one thing is taken to be.

    Attributes:
        what: the thing.
        value: what it is taken to be, as text.
        why: the reason.
    """

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
        """Note a guess."""
        self.guesses.append(Guess(what, value, why))


def propose(found: Look, told: Told) -> Proposal:
    """Guess what is what.

    Args:
        found: what the rows hold.
        told: what the user said.

    Raises:
        ConfigError: the user names a column that there is not.
    """
    for role, name in told.columns.items():
        if name and name not in found.columns:
            here = ", ".join(map(shown_name, found.columns))
            raise ConfigError(f"--{role} {name}: there is no such column. Columns here: {here}.")
    return _Proposing(found, told).made


class _Proposing:
    def __init__(self, found: Look, told: Told):
        self.found, self.told = found, told
        self.made = Proposal()
        self._same = ""  # the question that every row brings
        self.taken: set[str] = {name for name in told.columns.values() if name}
        self._turns = next((turns for turns in _TURNS if turns <= found.columns.keys()), set[str]())
        self.taken |= self._turns
        self._split()
        self._image()
        self._task()
        self._text()
        self._id()
        self._group()
        self._clients()
        self._shares()
        self._absent()
        self._unread()
        if not found.whole:
            self.made.warnings.append(
                f"Only the first {found.total:,} rows were looked at: labels and names further down are not known. "
                "fs-fedmllm data check looks at all."
            )

    def _said(self, role: str) -> bool:
        """Whether the user said which column it is; noted if so."""
        if role not in self.told.columns:
            return False
        name = self.told.columns[role]
        if name:
            self.made.columns[role] = name
            self.made.reasons[role] = f"--{role} said so"
        self.made.say(ROLES[role], name or "none", f"you said so (--{role})")
        return True

    def _take(self, role: str, column: Column, why: str) -> None:
        self.made.columns[role] = column.name
        self.made.reasons[role] = why
        self.taken.add(column.name)
        self.made.say(ROLES[role], column.name, why)

    def _free(self) -> list[Column]:
        return [column for column in self.found.columns.values() if column.name not in self.taken and column.seen]

    def _named(self, words: Collection[str]) -> list[Column]:
        return [column for column in self._free() if words_of(column.name) & set(words)]

    # One thing after the other ------------------------------------------------------------------------------------

    def _split(self) -> None:
        if self._said("split"):
            return
        for column in self._named(_SPLIT):
            if not column.many and {value.lower() for value in column.values} <= SPLITS.keys():
                return self._take("split", column, f"its values are {_listed(column.values)}")

    def _image(self) -> None:
        if self.found.layout:
            name = "file_name" if self.found.layout == "metadata" else "image"
            self.taken.add(name)
            self.made.columns["image"] = name
            return self.made.say(ROLES["image"], name, "the folder holds images as Hugging Face's imagefolder does")
        if self._said("image"):
            return
        likely = [column for column in self._free() if column.pictures and column.mostly(column.pictures)]
        named = [column for column in self._free() if (words := words_of(column.name)) & IMAGE_WORDS
                 and words <= IMAGE_WORDS | PATH_WORDS and not column.numbers]  # fmt: skip
        far = [column for column in likely if any("://" in str(value) for value in column.sample)]
        likely = [column for column in likely if column not in far]
        for column in far:
            self.made.warnings.append(
                f"The column {shown_name(column.name)!r} holds addresses of images, which are not downloaded: bring "
                "the files, and give their paths."
            )
        both = [column for column in likely if column in named]
        if len(both) == 1 or (len(likely) == 1 and not both):
            column = (both or likely)[0]
            why = "its values are images" if isinstance(column.sample[0], dict | bytes) else (
                f"its values are names of image files, such as {shown_name(str(column.sample[0]))}"
            )  # fmt: skip
            return self._take("image", column, why)
        if likely:
            self._doubt("image", "Which column holds the image?", [column.name for column in likely])
        else:
            self.made.say(ROLES["image"], "none", "no column holds names of image files")

    def _task(self) -> None:
        told, made = self.told, self.made
        if self._turns:
            made.task = "vqa"
            return made.say("task", "open answers", f"{' and '.join(sorted(self._turns))} hold conversations")
        if not self._said("question"):
            self._guess_question()
        if told.task == "vqa" or (not told.task and "question" in made.columns and "label" not in told.columns):
            made.task = "vqa"
            made.say("task", "open answers", "you said so (--task)" if told.task else "rows bring a question each")
            return self._answer()
        if not self._said("label"):
            self._guess_label()
        if "label" in made.columns:
            made.task = "choice"
            if not told.task:
                made.say("task", "choice", "rows bring a label each")
            return self._options()
        if not made.doubts and not told.task and (self._named(_ANSWER) or "answer" in told.columns):
            made.task = "vqa"
            made.say("task", "open answers", "rows bring an answer and no label")
            return self._answer()
        alone = [c for c in self._named(_LABEL) if len(c.values) == 1 and not c.many]
        if alone and not made.doubts:
            raise ConfigError(
                f"The column {shown_name(alone[0].name)!r} has one value in all rows, {_listed(alone[0].values)}: "
                "there is nothing to tell apart. Add rows of another class, or name another column (--label, "
                "--answer)."
            )
        if not any(doubt.option == "label" for doubt in made.doubts):
            self._doubt("label", "Which column holds the label (or say --answer)?", [c.name for c in self._free()])

    def _guess_question(self) -> None:
        # Rows of instructions: what is put in is asked, what comes out is the answer.
        pair = _PAIR if {column.name.lower() for column in self._free()} >= _PAIR else frozenset()
        likely = [column for column in self._named(_QUESTION | (pair & {"input"})) if not column.numbers]
        exact = [column for column in likely if column.name.lower() in ("question", *pair)]
        for column in (exact or likely)[:1]:
            if len(column.values) == 1 and not column.many and column.seen > 1:
                self.taken.add(column.name)
                self._same = next(iter(column.values))
            else:
                self._take("question", column, "its name says so")

    def _guess_label(self) -> None:
        few = [column for column in self._free() if self._may_be_label(column)]
        named = [c for c in few if words_of(c.name) & _LABEL and not words_of(c.name) & (_GROUP | _SITE)]
        exact = [c for c in named if c.name.lower() in ("label", "labels", "class", "target")]
        if len(exact) == 1 or len(named) == 1:
            column = (exact or named)[0]
            return self._take("label", column, f"its name says so; its values are {_listed(column.values)}")
        others = [c for c in few if not words_of(c.name) & (_GROUP | _SITE | _SPLIT)]
        if not named and len(others) == 1:
            column = others[0]
            return self._take("label", column, f"no other column has a few values each in many rows: "
                              f"{_listed(column.values)}")  # fmt: skip
        answers = [c for c in self._named(_ANSWER) if c.seen]
        if not named and not others and answers:
            return
        if named or others:
            self._doubt("label", "Which column holds the label?", [column.name for column in named or others])

    def _may_be_label(self, column: Column) -> bool:
        return (
            not column.many
            and 2 <= len(column.values) <= len(LETTERS)
            and column.repeats
            and column.longest <= 80
            and not column.pictures
            and column.kinds <= {"str", "int", "float"}
            and 2 * column.seen >= self.found.total
            and (column.kinds == {"str"} or column.numbers)
            and not all(_DATE.match(value) for value in column.values)
        )

    def _options(self) -> None:
        made, told = self.made, self.told
        column = self.found.columns[made.columns["label"]]
        declared = self.found.class_labels.get(column.name)
        if told.options:
            made.options = told.options
            made.say("options", ", ".join(map(shown_name, told.options)), "you said so (--options)")
        elif declared:
            made.options = tuple(declared)
            made.say("options", ", ".join(map(shown_name, declared)), "the file declares these names")
        elif not 2 <= len(column.values) <= len(LETTERS) or column.many:
            count = "more than 2,000" if column.many else f"{len(column.values):,}"
            raise ConfigError(
                f"The label {column.name!r} has {count} different values, and a choice has 2 to {len(LETTERS)} "
                "options. Name another column (--label), or have answers in words (--task vqa --answer "
                f"{column.name})."
            )
        elif column.numbers and column.kinds != {"str"}:
            values = sorted({int(float(value)) for value in column.values})
            if values[-1] >= len(LETTERS):
                raise ConfigError(
                    f"The labels {_listed(column.values)} are numbers, which count the options from 0, and a choice "
                    f"has at most {len(LETTERS)}: write what they mean in the rows, as texts, or put them in quotes."
                )
            made.options = tuple(str(i) for i in range(values[-1] + 1))
            made.say("options", ", ".join(made.options), "labels are numbers, which count the options from 0")
            made.warnings.append(
                "The options have numbers for names, which tells a model nothing: say what they mean with --options, "
                f"in the order of the numbers from 0 ({_named_numbers(values)})."
            )
        else:
            made.options = tuple(sorted(column.values, key=_natural))
            made.say("options", ", ".join(map(shown_name, made.options)), f"the values of {shown_name(column.name)}")
            self._doubtful_options(column)
        self._lacking(column, "label")
        if not told.ask and self._same:
            made.ask = self._same
            made.say("question", made.ask, "every row brings the same")
        elif not told.ask:
            words = " ".join(re.findall(r"[^\W_]+", column.name)).lower()
            made.ask = (
                "Which of these fits?" if words in ("label", "labels", "class", "target", "y", "gold", "category")
                else f"Which {words} fits?"
            )  # fmt: skip
            made.say("question", made.ask, "from the column's name; write your own into the template, or --ask")
        else:
            made.ask = told.ask
            made.say("question", made.ask, "you said so (--ask)")

    def _doubtful_options(self, column: Column) -> None:
        """Say it where values that become options are numbers, texts, or the same thing twice."""
        warnings, values = self.made.warnings, column.values
        warnings += alike_sentences(values)
        single = sum(count == 1 for count in values.values())
        if 2 * single > len(values):
            warnings.append(
                f"{single:,} of {len(values):,} options stand in one row each. If they are texts, have answers in "
                f"words (--task vqa --answer {shlex.quote(column.name)} --ask '...'), or name another column "
                "(--label)."
            )
        if column.numbers:
            numbers = sorted({int(float(value)) for value in values})
            counts = len(numbers) == len(values) and numbers == list(range(len(values)))
            warnings.append(
                "The options have numbers for names, which tells a model nothing: "
                + (
                    f"say what they mean with --options, in the order of the numbers from 0 "
                    f"({_named_numbers(numbers)})."
                    if counts
                    else "write what they mean in the rows, in place of the numbers. (Options count from 0, so names "
                    "for these would be given to the wrong rows.)"
                )
            )

    def _answer(self) -> None:
        if not self._said("answer"):
            named = self._named(_ANSWER) or self._named(_words("label labels target output completion"))
            named = [c for c in named if c.name.lower() in ("answer", "output")] or named
            if len(named) == 1:
                self._take("answer", named[0], "its name says so")
            else:
                self._doubt("answer", "Which column holds the answer?", [c.name for c in named or self._free()])
        if "answer" in self.made.columns:
            self._lacking(self.found.columns[self.made.columns["answer"]], "answer")
        self.made.ask = self.told.ask or self._same
        if self.made.ask:
            why = "you said so (--ask)" if self.told.ask else "every row brings the same"
            self.made.say("question", self.made.ask, why)
        elif "question" not in self.made.columns:
            self._doubt("ask", "What is every row asked?", ())

    def _lacking(self, column: Column, role: str) -> None:
        lacking = self.found.total - column.seen
        if lacking:
            rows = "1 row has" if lacking == 1 else f"{lacking:,} rows have"
            self.made.warnings.append(f"{rows} no {role}, and will be refused: fill them in, or take them out.")

    def _text(self) -> None:
        if self._turns or self._said("text"):
            return
        free = [column for column in self._free() if "str" in column.kinds]
        named = [c for c in free if words_of(c.name) & TEXT_WORDS and not words_of(c.name) & NO_TEXT_WORDS
                 and not c.numbers]  # fmt: skip
        prose = [c for c in free if c.prose and c.mostly(c.prose)]
        exact = [c for c in named if c.name.lower() == "text"]
        for column in exact or named[:1] or prose[:1]:
            why = "its name says so" if column in named else "it holds sentences"
            more = [shown_name(c.name) for c in free if c is not column and (c in named or c in prose)]
            if more:
                self.made.warnings.append(
                    f"Only one column can be the text. {', '.join(more)} could be, too (--text); join them if both "
                    "matter."
                )
            return self._take("text", column, why)
        if "image" not in self.made.columns and "question" not in self.made.columns and not self.made.doubts:
            self._doubt("text", "Which column holds the text?", [column.name for column in free])
        else:
            self.made.say(ROLES["text"], "none", "no column is called like a text or holds sentences")

    def _id(self) -> None:
        if self.found.layout == "classes":
            return
        if self._said("id"):
            return
        likely = [c for c in self._free() if words_of(c.name) & {"id", "uid", "uuid", "key"} and c.unique
                  and c.seen == self.found.total and not words_of(c.name) & _GROUP]  # fmt: skip
        exact = [c for c in likely if c.name.lower() == "id"] or likely[:1]
        if exact:
            self._take("id", exact[0], "it is another one in every row")

    def _group(self) -> None:
        if self._said("group"):
            return
        likely = [c for c in self._named(_GROUP) if c.repeats and c.seen == self.found.total]
        if likely:
            best = likely[0]
            count = "many" if best.many else f"{len(best.values):,}"
            return self._take("group", best, f"its name says so; {count} different ones in {self.found.total:,} rows")
        self.made.say(ROLES["group"], "none", "no column is called like one and has a value in several rows")

    def _clients(self) -> None:
        if not self._said("site") and self.told.clients == 0:
            likely = [c for c in self._named(_SITE) if c.repeats and not c.many and 2 <= len(c.values) <= 1000]
            full = [c for c in likely if c.seen == self.found.total]
            if full:
                best = full[0]
                self._take("site", best, f"its name says so; {len(best.values):,} different ones: "
                           f"{_listed(best.values)}")  # fmt: skip
            for column in likely:
                if column not in full and not full:
                    self.made.warnings.append(
                        f"{shown_name(column.name)!r} could say which client a row belongs to, but "
                        f"{self.found.total - column.seen:,} rows lack it."
                    )
        if "site" not in self.made.columns:
            group = self.found.columns.get(self.made.columns.get("group", ""))
            units = len(group.values) if group is not None and not group.many else self.found.total
            # a third of the units is for validation and test
            self.made.clients = self.told.clients or max(1, min(CLIENTS, units // 3))
            why = "you said so (--clients)" if self.told.clients else "no column is called like a hospital or a site"
            self.made.say("clients", str(self.made.clients), f"{why}; rows are dealt to them by chance")

    def _shares(self) -> None:
        made, found = self.made, self.found
        there = {split for split in found.rows if split}
        if "split" in made.columns:
            column = found.columns[made.columns["split"]]
            there |= {SPLITS[value.lower()] for value in column.values if value.lower() in SPLITS}
        usual = {"val": 0.1, "test": 0.2}
        made.shares = {part: share for part, share in usual.items() if part not in there}
        for part, share in self.told.shares.items():
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

    def _absent(self) -> None:
        made, columns = self.made, self.found.columns
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

    def _unread(self) -> None:
        made = self.made
        unread = self._free()
        pictures = [shown_name(c.name) for c in unread if c.pictures and c.mostly(c.pictures)]
        if pictures and made.columns.get("image"):
            made.warnings.append(
                f"Only one column can be the image. {', '.join(pictures)} is not read: make a row of each image, or "
                "join them into one picture, if it matters."
            )
        if unread:
            made.say("not read", ", ".join(shown_name(c.name) for c in unread), "nothing says what for")

    def _doubt(self, option: str, question: str, choices: Sequence[str]) -> None:
        self.made.doubts.append(Doubt(option, question, tuple(choices)))


def _natural(value: str) -> tuple[bool, float, str]:
    """Whole numbers by their size, before anything else by its characters."""
    number = value.isascii() and value.isdigit()
    return not number, float(value) if number else 0.0, value


def _listed(values: Collection[str], most: int = 5) -> str:
    shown = [shown_name(value, 24) for value in sorted(values, key=_natural)[:most]]
    return ", ".join(shown) + (f" and {len(values) - most:,} more" if len(values) > most else "")


def _named_numbers(values: Sequence[int]) -> str:
    return f"--options 'what {values[0]} means,what {values[-1]} means'" if len(values) == 2 else "a name each"
