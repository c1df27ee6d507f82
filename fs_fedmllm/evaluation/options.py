"""The options of a template as tokens: where they part ways, and what each says behind that.

With letters one forward pass decides: the token after what all options share is an option's own, and what follows it
(the option's name) is not looked at. In words an option is scored as a whole, by the sum of its tokens'
log-likelihoods up to and with the token at which a model stops. That token makes ``head`` another answer than the
beginning of ``head and neck``, and says that the option ends here. Nothing is divided by an option's length: a sum is
the model's own probability of writing exactly this answer, and over the options these are normalised.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fs_fedmllm.errors import ModelError

if TYPE_CHECKING:
    from fs_fedmllm.models.encoding import Encoder


@dataclass(frozen=True)
class OptionTokens:
    """Options as tokens.

    Attributes:
        prefix: token ids that all completions share (``(`` in ``(A) name``); it is forced.
        decisions: the token after the prefix, one per option; with letters all different.
        rests: options in words: the tokens after that one, to the end of the answer, one tuple per option; empty
            where the deciding token is all that is looked at.
    """

    prefix: tuple[int, ...]
    decisions: tuple[int, ...]
    rests: tuple[tuple[int, ...], ...] = ()

    @property
    def sequences(self) -> list[tuple[int, ...]]:
        """What is scored of each option behind the prefix; none is the beginning of another."""
        rests = self.rests or ((),) * len(self.decisions)
        return [(decision, *rest) for decision, rest in zip(self.decisions, rests, strict=True)]


def parted(sequences: Sequence[Sequence[int]], members: Sequence[int], depth: int) -> dict[int, list[int]]:
    """Options apart by their next token.

    Args:
        sequences: token ids of every option.
        members: options whose tokens are the same up to ``depth``.
        depth: how many tokens that are.
    """
    found: dict[int, list[int]] = {}
    for member in members:
        found.setdefault(sequences[member][depth], []).append(member)
    return found


def option_tokens(completions: Sequence[Sequence[int]]) -> OptionTokens:
    """Find the shared prefix and the deciding tokens.

    Args:
        completions: token ids of each option's completion.

    Raises:
        ModelError: two options have the same token after the shared prefix, so a single pass cannot tell them
            apart (rename the options, or letter them).
    """
    length = _shared(completions)
    if length == min(map(len, completions)):
        raise ModelError("One option's completion is the beginning of another's; the options cannot be told apart.")
    decisions = tuple(c[length] for c in completions)
    if len(set(decisions)) != len(decisions):
        raise ModelError(
            "This model's tokenizer gives two options the same first token after what all options share; "
            "letter the options so that each begins with a token of its own, or set lettered: false in the template."
        )
    return OptionTokens(tuple(completions[0][:length]), decisions)


def word_tokens(
    completions: Sequence[Sequence[int]], stops: Collection[int], names: Sequence[str], where: str
) -> OptionTokens:
    """Options in words: the shared prefix, and every option from there to the token at which a model stops.

    Args:
        completions: token ids of each option's completion.
        stops: ids that end an answer.
        names: what the options are called, for messages.
        where: the template, for messages.

    Raises:
        ModelError: two options are the same tokens, or one is the beginning of another.
    """
    ends = [next((i + 1 for i, token in enumerate(c) if token in stops), len(c)) for c in completions]
    said = [tuple(c[:end]) for c, end in zip(completions, ends, strict=True)]
    for later, own in enumerate(said):
        for earlier, other in enumerate(said[:later]):
            shorter = min(len(own), len(other))
            if own[:shorter] == other[:shorter]:
                alike = "the same tokens" if len(own) == len(other) else "tokens of which one is the other's beginning"
                raise ModelError(
                    f"{where}: options: {names[earlier]!r} and {names[later]!r} are {alike} for this model, so "
                    "answers in words (lettered: false) cannot tell them apart. Rename one, or set lettered: true."
                )
    length = _shared(said)
    return OptionTokens(said[0][:length], tuple(s[length] for s in said), tuple(s[length + 1 :] for s in said))


def _shared(completions: Sequence[Sequence[int]]) -> int:
    """How many tokens all of them begin with."""
    length, shortest = 0, min(map(len, completions))
    while length < shortest and len({c[length] for c in completions}) == 1:
        length += 1
    return length


def options_of(encoder: Encoder) -> OptionTokens | None:
    """The options of an encoder's template as its model's tokens; None where answers are open.

    Args:
        encoder: knows the template and the tokenizer.

    Raises:
        ModelError: see :func:`option_tokens` and :func:`word_tokens`.
    """
    template = encoder.template
    if template.task != "choice":
        return None
    completions = [encoder.completion(template.answer(i)) for i in range(len(template.options))]
    if template.lettered:
        return option_tokens(completions)
    return word_tokens(completions, encoder.completions.stops, template.options, f"The template {template.name!r}")
