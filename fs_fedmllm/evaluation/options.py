"""Where the options of a template part ways, in tokens: one forward pass then decides between them."""

from __future__ import annotations

from collections.abc import Sequence
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
        decisions: the token after the prefix, one per option, all different.
    """

    prefix: tuple[int, ...]
    decisions: tuple[int, ...]


def option_tokens(completions: Sequence[Sequence[int]]) -> OptionTokens:
    """Find the shared prefix and the deciding tokens.

    Args:
        completions: token ids of each option's completion.

    Raises:
        ModelError: two options have the same token after the shared prefix, so a single pass cannot tell them
            apart (rename the options, or letter them).
    """
    length = 0
    shortest = min(len(c) for c in completions)
    while length < shortest and len({c[length] for c in completions}) == 1:
        length += 1
    if length == shortest:
        raise ModelError("One option's completion is the beginning of another's; the options cannot be told apart.")
    decisions = tuple(c[length] for c in completions)
    if len(set(decisions)) != len(decisions):
        raise ModelError(
            "This model's tokenizer gives two options the same first token after what all options share; "
            "letter the options so that each begins with a token of its own."
        )
    return OptionTokens(tuple(completions[0][:length]), decisions)


def options_of(encoder: Encoder) -> OptionTokens | None:
    """The options of an encoder's template as its model's tokens; None where answers are open.

    Args:
        encoder: knows the template and the tokenizer.

    Raises:
        ModelError: see :func:`option_tokens`.
    """
    template = encoder.template
    if template.task != "choice":
        return None
    return option_tokens([encoder.completion(template.answer(i)) for i in range(len(template.options))])
