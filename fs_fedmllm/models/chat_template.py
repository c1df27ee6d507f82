"""What a checkpoint's chat template may do: write a row's text as it is, once, and the same every time.

A template is a program, and people bring their own. It is rendered in transformers' sandbox, within a time and a
length. A date in it is a fixed one: a row would be another row tomorrow.
"""

from __future__ import annotations

import datetime
import functools
import re
from collections.abc import Callable, Mapping
from typing import Any

from fs_fedmllm.errors import ModelError
from fs_fedmllm.models.checkpoint_faults import told_of
from fs_fedmllm.models.time_limit import TooSlowError, limited

#: Characters that a chat template may add to a conversation; a fault in one may add millions.
LONGEST = 100_000
#: Seconds of a processor that it may take for one conversation; usual ones take less than a thousandth.
SECONDS = 5.0
#: What a template that asks for the date is told: what Llama's templates write where they are told none.
TODAY = datetime.datetime(2024, 7, 26)
REMEDY = "Correct its chat_template.jinja"
_DATE = re.compile(r"""\bstrftime_now\(\s*(?:format\s*=\s*)?(['"])([^'"\\]*)\1\s*\)""")
_COMMENT = re.compile(r"\{#.*?#\}", re.DOTALL)
_ANY_DATE = re.compile(r"\bstrftime_now\s*\(")
#: What a template may change in a text: blanks, lines, markup, quotes, letters.
PROBE = "\u241eA  b\nSt <c> & \"d\" 'e' {f} é\u241e"
#: Renderings that are compared.
_TIMES = 8
#: Names under which processors have what stands for an image.
_IMAGE_TOKENS = ("image_token", "boi_token")


def conversation(processor: Any, messages: list[dict[str, Any]], arguments: dict[str, Any]) -> str:
    """Messages as text, through the chat template.

    Args:
        processor: the checkpoint's, or its tokenizer.
        messages: of the conversation.
        arguments: of ``apply_chat_template``.

    Raises:
        ModelError: there is no template, or one with a fault.
    """
    given = getattr(processor, "chat_template", None)
    template = given.get("default") if isinstance(given, Mapping) else given
    if isinstance(template, str) and "strftime_now" in template:
        arguments = {**arguments, "chat_template": _dated(template)}
    with told_of("The checkpoint's processor cannot write a conversation", REMEDY):
        try:
            with limited(SECONDS):
                text = processor.apply_chat_template(messages, tokenize=False, **arguments)
        except TooSlowError:
            raise ModelError(
                f"The chat template of the checkpoint's processor takes more than {SECONDS:.0f} seconds for a row. "
                f"{REMEDY}."
            ) from None
    assert isinstance(text, str)
    if len(text) > LONGEST + 4 * len(str(messages)):
        raise ModelError(
            f"The chat template of the checkpoint's processor makes {len(text):,} characters of a row. {REMEDY}."
        )
    return text


@functools.lru_cache(maxsize=16)
def _dated(template: str) -> str:
    """A template with a fixed date in it. (transformers lets no function of ours into a template.)"""

    def written(found: re.Match[str]) -> str:
        return f"{found[1]}{TODAY.strftime(found[2])}{found[1]}"

    fixed = _DATE.sub(written, template)
    if _ANY_DATE.search(_COMMENT.sub("", fixed)):
        raise _faulty("asks for the date in a form that is not written out, so rows would change from day to day")
    return fixed


def check(processor: Any, render: Callable[[str, bool], str]) -> None:
    """Look at how a template writes a user's text.

    Args:
        processor: the checkpoint's.
        render: a user's turn, of its text and whether it has an image, and the opening of the assistant's.

    Raises:
        ModelError: it writes otherwise at every call, changes, drops or repeats the text, or writes an image's place.
    """
    bare = render(PROBE, False)
    if any(render(PROBE, False) != bare for _ in range(_TIMES)):
        raise _faulty("writes the same row otherwise each time")
    if bare.startswith("\ufeff"):
        raise _faulty("begins with a byte order mark: save it as UTF-8 without one", "")
    _once(bare)
    for token in _image_tokens(processor):
        if token in bare:
            raise _faulty(f"writes an image's place ({token}) in a row without an image")


def check_image(processor: Any, render: Callable[[str, bool], str]) -> None:
    """Look at how a template writes an image; one that knows no images is none for rows that have one.

    Args:
        processor: the checkpoint's.
        render: as in :func:`check`.

    Raises:
        ModelError: it writes no place for an image or several, or changes, drops or repeats the text beside it.
    """
    pictured = render(PROBE, True)
    _once(pictured)
    if pictured == render(PROBE, False):
        raise _faulty("writes nothing where a row has an image")
    for token in _image_tokens(processor):
        if pictured.count(token) > 1:
            raise _faulty(f"writes {pictured.count(token)} places ({token}) for one image")


def _once(written: str) -> None:
    check_text(PROBE, written)
    if written.count("\u241e") != 2:
        raise _faulty("repeats the user's text")


def _image_tokens(processor: Any) -> list[str]:
    found = [getattr(processor, name, None) for name in _IMAGE_TOKENS]
    return [token for token in found if isinstance(token, str) and token]


def check_turn(processor: Any, around: str) -> None:
    """Refuse a template that writes an image's place beside an answer.

    Args:
        processor: the checkpoint's.
        around: what it writes before and behind an answer.

    Raises:
        ModelError: there is one.
    """
    for token in _image_tokens(processor):
        if token in around:
            raise _faulty(f"writes an image's place ({token}) beside an answer")


def check_text(text: str, written: str) -> None:
    """Refuse a template that changes a user's text; blanks around it may go.

    Args:
        text: the user's.
        written: the conversation.

    Raises:
        ModelError: the text is not in it.
    """
    if text.strip() not in written:
        raise _faulty("changes, shortens or drops the user's text")


def _faulty(what: str, remedy: str = f" {REMEDY}.") -> ModelError:
    return ModelError(f"The chat template of the checkpoint's processor {what}.{remedy}")
