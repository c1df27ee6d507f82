"""What a model is taught to write after a prompt, and where it stops.

One rule, for training, forced choice, likelihoods and generation: the whole conversation is rendered through the
checkpoint's own chat template, and an answer's completion is everything that follows the rendered generation prompt.
So ``Assistant:`` is followed by `` yes`` where the template has a space, an empty thought where it writes one, and by
whatever it writes after an answer. Where none of that ends a turn for the tokenizer or for the model's generation
configuration (LLaVA 1.5's template writes a blank), the token that ends a text is appended.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fs_fedmllm.errors import ModelError
from fs_fedmllm.models.chat_template import check_turn
from fs_fedmllm.models.families import Family
from fs_fedmllm.models.row_text import RowText

#: What stands for an answer while a template is looked at. No tokenizer merges its ends with what is around.
_MARKER = "\u241eanswer\u241e"
#: Answers that begin with nothing in common.
_UNLIKE = ("a", "7", "(", "Z", "\u241e")
_OPEN, _CLOSED = "<think>", "</think>"


@dataclass(frozen=True)
class Turn:
    """An assistant's turn as the template writes it, apart from the answer in it.

    Attributes:
        prompt: the rendered conversation up to the generation prompt and with it.
        before: what the template writes between the generation prompt and an answer.
        after: what it writes behind an answer.
    """

    prompt: str
    before: str
    after: str


def turn_of(render: Callable[..., str], question: Sequence[dict[str, Any]]) -> Turn:
    """The assistant's turn after a user's.

    Args:
        render: messages to text; takes ``add_generation_prompt``.
        question: the messages before the answer.

    Raises:
        ModelError: the template drops the answer, or writes it twice.
    """
    prompt = render([*question], add_generation_prompt=True)
    whole = render([*question, answering(_MARKER)])
    if whole.count(_MARKER) != 1:
        raise ModelError(
            "The processor's chat template drops the assistant's answer, or repeats it; it cannot be used to train."
        )
    before, after = whole.split(_MARKER)
    if before.startswith(prompt):
        return Turn(prompt, before[len(prompt) :], after)
    # The generation prompt holds what a finished conversation does not, such as the opening of a thought. The model
    # is asked with it wherever it is used, so the answer follows it; an open thought is closed first.
    thinks = prompt.rpartition(_OPEN)[2] if _OPEN in prompt else _CLOSED
    return Turn(prompt, "" if _CLOSED in thinks else f"\n{_CLOSED}\n\n", after)


def answering(answer: str) -> dict[str, Any]:
    """An assistant's message."""
    return {"role": "assistant", "content": [{"type": "text", "text": answer}]}


def asking(text: str, *, image: bool) -> dict[str, Any]:
    """A user's message; the image stands before the text."""
    content: list[dict[str, str]] = [{"type": "image"}] if image else []
    return {"role": "user", "content": [*content, {"type": "text", "text": text}]}


def end_tokens(tokenizer: Any, generation: Any) -> tuple[int, ...]:
    """Ids that end an answer for a tokenizer or a generation configuration, the tokenizer's own first."""
    stated = getattr(generation, "eos_token_id", None)
    listed = stated if isinstance(stated, list | tuple) else [stated]
    return tuple(int(i) for i in dict.fromkeys((tokenizer.eos_token_id, *listed)) if i is not None)


class Completions:
    """The completions of one model.

    Attributes:
        lead: ids that the tokenizer puts before a conversation whose template does not (LLaVA 1.5's ``<s>``).
        opening: ids that stand before every answer, such as an empty thought's; generation begins behind them.
        stops: ids at which generation stops.
        appended: the id that is appended because the template ends no turn, or None.

    Raises:
        ModelError: the template drops answers, or nothing would end one.
    """

    def __init__(self, family: Family, processor: Any, row_text: RowText, ends: Sequence[int]):
        self._row_text = row_text
        self._render = lambda messages, **options: family.render(processor, messages, **options)
        self.turn = turn_of(self._render, [asking("?", image=False)])
        check_turn(processor, self.turn.before + self.turn.after)
        self._prompt = row_text.tokens(self.turn.prompt)
        self.lead = _lead(processor.tokenizer, self.turn.prompt)
        self._known: dict[str, tuple[int, ...]] = {}
        self.appended: int | None = None
        written = row_text.tokens(self._whole(_MARKER))
        self._frame = row_text.commands(written)
        closing = row_text.tokens(self.turn.after)
        if not set(ends) & set(closing):
            if not ends and not self.turn.after.strip():
                raise ModelError(
                    "The checkpoint's tokenizer has no eos token and its chat template writes nothing after an "
                    "answer, so answers would not end: name an eos_token in its tokenizer_config.json."
                )
            self.appended = ends[0] if ends else None
        # What the template ends a turn with stops an answer, whether or not the tokenizer lists it.
        self.stops = tuple(sorted({*ends, *(row_text.commands(closing)[:1] if ends else closing[:1])}))
        self.opening = self._shared() if self.turn.before else ()

    def ids(self, answer: str) -> tuple[int, ...]:
        """Token ids of what follows the generation prompt; nothing in the answer itself ends the turn.

        Raises:
            ModelError: the template keeps only a part of the answer.
        """
        if answer not in self._known:
            self._known[answer] = self._read(answer)
        return self._known[answer]

    def without_opening(self, text: str) -> str:
        """A generated answer without what the template writes before every answer."""
        return text.strip().removeprefix(self.turn.before.strip()).strip()

    def _whole(self, answer: str) -> str:
        """The conversation with an answer, as it follows the generation prompt."""
        written = self._render([asking("?", image=False), answering(answer)])
        if answer.strip() not in written:
            raise ModelError(f"The checkpoint's chat template keeps only a part of the answer {answer[:80]!r}.")
        if written.startswith(self.turn.prompt):
            return written
        kept = written.removesuffix(self.turn.after)
        said = answer if answer in kept else answer.strip()  # some templates trim it
        return f"{self.turn.prompt}{self.turn.before}{kept[kept.rindex(said) :]}{self.turn.after}"

    def _read(self, answer: str) -> tuple[int, ...]:
        hidden, ids = self._row_text.hidden(answer, self._whole, self._frame)
        if ids[: len(self._prompt)] == self._prompt:
            ids = ids[len(self._prompt) :]
        else:  # the tokenizer joins the prompt's end and what follows; a model is asked with the prompt as it is
            rest = self._whole(hidden.text)[len(self.turn.prompt) :]
            ids = self._row_text.tokens_inside(rest, marked=bool(hidden.pieces))
        ids = self._row_text.restore(ids, {}, hidden.pieces)[0]
        return ids if self.appended is None else (*ids, self.appended)

    def _shared(self) -> tuple[int, ...]:
        """The beginning that the completions of unlike answers share."""
        read = [self.ids(answer) for answer in _UNLIKE]
        shared = 0
        while shared < min(map(len, read)) and len({ids[shared] for ids in read}) == 1:
            shared += 1
        names = self._row_text.names(read[0])
        while shared and not names[shared - 1].strip("\u0120\u2581 "):  # a space that would join a word
            shared -= 1
        return read[0][:shared]


def _lead(tokenizer: Any, prompt: str) -> tuple[int, ...]:
    """What a tokenizer adds in front of a text; as transformers' processors do it, not where the template has it."""
    if tokenizer.bos_token is not None and prompt.startswith(tokenizer.bos_token):
        return ()
    start = tokenizer.bos_token_id
    plain, full = (list(tokenizer(prompt, add_special_tokens=added)["input_ids"]) for added in (False, True))
    return (start,) if start is not None and full[: len(plain) + 1] == [start, *plain] else ()
