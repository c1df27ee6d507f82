"""Row text is data: nothing in it becomes a token of the model's own.

A text may hold what a tokenizer or a processor takes for a command: an image's placeholder, the end of a turn, the
opening of the assistant's. Such a piece is taken out before anything reads it. A mark goes through the chat template,
the processor and the tokenizer in its place, as one token; then that token makes way for the piece's ordinary tokens.
So ``<image>`` in a text is the model's ``<``, ``image``, ``>``, and a text without such a piece is encoded as ever.

The tokenizer that knows the mark is a copy, made when the first such text comes. (transformers 5.23 has an argument
``sanitize_control_tokens`` for the same end; it needs that release and a processor of its own making, and leaves out
tokens that are neither flagged as special nor in the chat template.)
"""

from __future__ import annotations

import copy
import functools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from fs_fedmllm.errors import ModelError
from fs_fedmllm.models.families import Family

#: What stands for a hidden piece. A text that holds it is no trouble: then that is a piece to hide.
MARK = "\ue000fs-fedmllm:piece\ue001"
#: Added tokens with one of these are commands even where they are not flagged as special (``<think>``, ``[INST]``).
_MARKUP = re.compile(r"[<>\[\]{}|]")


@dataclass(frozen=True)
class Hidden:
    """A text whose pieces are hidden.

    Attributes:
        text: with a mark for each piece.
        pieces: what the marks stand for, in order.
    """

    text: str
    pieces: tuple[str, ...] = ()


def _is_command(token: Any) -> bool:
    """Whether an added token does more than abbreviate text, as runs of line breaks and words of a field do."""
    content = str(token.content)
    return bool(content.strip(" \t\r\n\u2581")) and (bool(token.special) or _MARKUP.search(content) is not None)


def _named_tokens(owner: Any) -> Iterator[str]:
    """What a processor or tokenizer has under names such as ``image_token``."""
    for name, value in vars(owner).items():
        if name.endswith("_token") and isinstance(value, str) and value.strip():
            yield value


class RowText:
    """What in a text a model would obey, and how to keep it from doing so.

    Args:
        processor: the checkpoint's; it is not changed.
        family: the model's.
    """

    def __init__(self, processor: Any, family: Family):
        self._original = processor
        tokenizer = processor.tokenizer
        added = {i: token for i, token in tokenizer.added_tokens_decoder.items() if _is_command(token)}
        # What stands for letters outside the vocabulary comes out of ordinary text; where it is written it is hidden.
        unknown = {getattr(tokenizer, "unk_token_id", None)} - {tokenizer.eos_token_id, tokenizer.pad_token_id}
        self._commands = frozenset(added) - unknown
        words = {str(token.content) for token in added.values()} | {MARK, *family.placeholders}
        words |= {*_named_tokens(processor), *_named_tokens(tokenizer)}
        longest_first = sorted(words, key=lambda word: (-len(word), word))
        self._pattern = re.compile("|".join(map(re.escape, longest_first)))

    # Before -------------------------------------------------------------------------------------------------------

    def forms(self, text: str) -> Iterator[Hidden]:
        """Ways to hide what is in a text, from the lightest to the one that leaves nothing to read.

        The first is right for nearly every tokenizer; the others are for those that read a text in another form than
        it is written in (lower case, without accents, ...). :meth:`commands` tells whether a way was enough.
        """
        yield self._hide(text, [match.span() for match in self._pattern.finditer(text)])
        tokenizer = self._original.tokenizer
        if getattr(tokenizer, "is_fast", False):
            found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
            pairs = zip(found["input_ids"], found["offset_mapping"], strict=True)
            yield self._hide(text, [(int(a), int(b)) for i, (a, b) in pairs if i in self._commands])
        yield Hidden(MARK, (text,))

    @staticmethod
    def _hide(text: str, spans: Sequence[tuple[int, int]]) -> Hidden:
        parts, at = [], 0
        for start, end in spans:
            parts += [text[at:start], MARK]
            at = end
        return Hidden("".join([*parts, text[at:]]), tuple(text[a:b] for a, b in spans))

    @functools.cached_property
    def processor(self) -> Any:
        """The processor with a tokenizer that knows the mark."""
        from transformers import AddedToken

        processor = copy.copy(self._original)
        processor.tokenizer = copy.deepcopy(self._original.tokenizer)
        processor.tokenizer.add_tokens([AddedToken(MARK, special=True, normalized=False)], special_tokens=True)
        return processor

    @functools.cached_property
    def _mark_id(self) -> int:
        return int(self.processor.tokenizer.convert_tokens_to_ids(MARK))

    def tokens(self, text: str, *, marked: bool = False) -> tuple[int, ...]:
        """Token ids of a text, without special tokens of the tokenizer's own."""
        processor = self.processor if marked else self._original
        return tuple(processor.tokenizer(text, add_special_tokens=False)["input_ids"])

    def names(self, ids: Sequence[int]) -> list[str]:
        """The tokens as the vocabulary writes them."""
        return [str(name) for name in self._original.tokenizer.convert_ids_to_tokens(list(ids))]

    def tokens_inside(self, text: str, *, marked: bool) -> tuple[int, ...]:
        """Token ids of a text that goes on a line; at its beginning some tokenizers would put a space in front."""
        before, ids = self.tokens(":", marked=marked), self.tokens(":" + text, marked=marked)
        return ids[len(before) :] if ids[: len(before)] == before else self.tokens(text, marked=marked)

    def hidden(
        self, text: str, around: Callable[[str], str], frame: tuple[int, ...]
    ) -> tuple[Hidden, tuple[int, ...]]:
        """A text with what a model would obey hidden, and the token ids of ``around`` it.

        Args:
            text: a row's.
            around: what is written around it.
            frame: the model's own tokens in what is written around; with the text in it there must be no other.

        Raises:
            ModelError: there are others however the text is hidden.
        """
        for hidden in self.forms(text):
            ids = self.tokens(around(hidden.text), marked=bool(hidden.pieces))
            if self.commands(ids) == frame:
                return hidden, ids
        raise ModelError("The checkpoint's chat template makes other tokens of its own for some texts.")

    # After --------------------------------------------------------------------------------------------------------

    def commands(self, ids: Sequence[int]) -> tuple[int, ...]:
        """The tokens among these that are the model's own, in order."""
        return tuple(i for i in ids if i in self._commands)

    def restore(
        self, ids: Sequence[int], extras: dict[str, tuple[int, ...]], pieces: Sequence[str]
    ) -> tuple[tuple[int, ...], dict[str, tuple[int, ...]]]:
        """Token ids with the pieces' ordinary tokens in the marks' places, and the further inputs to match.

        Raises:
            ModelError: the chat template dropped or repeated a part of the text, or a piece has no ordinary tokens.
        """
        if not pieces:
            return tuple(ids), extras
        if sum(i == self._mark_id for i in ids) != len(pieces):
            raise ModelError("The checkpoint's chat template drops or repeats a part of the user's text.")
        rest = iter(pieces)
        spread = [self._ordinary(next(rest)) if i == self._mark_id else (i,) for i in ids]
        return (
            tuple(i for part in spread for i in part),
            {
                name: tuple(value for value, part in zip(values, spread, strict=True) for _ in part)
                for name, values in extras.items()
            },
        )

    @functools.lru_cache(maxsize=4096)  # noqa: B019 - as long-lived as the encoder, and bounded
    def _ordinary(self, piece: str) -> tuple[int, ...]:
        """Token ids of a piece that hold none of the model's own."""
        ids = self._without_added_tokens(piece)
        if self.commands(ids):  # the vocabulary itself has it as a word
            ids = tuple(i for character in piece for i in self._without_added_tokens(character))
        if self.commands(ids):
            raise ModelError(f"The checkpoint's tokenizer has no ordinary tokens for {piece[:80]!r}.")
        return ids

    def _without_added_tokens(self, text: str) -> tuple[int, ...]:
        """A text's tokens inside a line; at its beginning some tokenizers would put a space in front."""
        tokenizer = self._original.tokenizer
        backend = getattr(tokenizer, "backend_tokenizer", None)

        def read(words: str) -> list[int]:
            if backend is None or not hasattr(backend, "model"):
                return list(tokenizer.encode(words, add_special_tokens=False, split_special_tokens=True))
            if backend.normalizer is not None:
                words = backend.normalizer.normalize_str(words)
            splits = [words]
            if backend.pre_tokenizer is not None:
                splits = [split for split, _ in backend.pre_tokenizer.pre_tokenize_str(words)]
            return [token.id for split in splits for token in backend.model.tokenize(split)]

        before, ids = read("\n"), read("\n" + text)
        return tuple(ids[len(before) :] if ids[: len(before)] == before else read(text))
