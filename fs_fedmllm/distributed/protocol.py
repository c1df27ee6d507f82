"""What clients and server say to each other. Only clients call; the server answers, at once or when there is news.

============  =====================================================  ==============================================
client asks   with                                                   server answers
============  =====================================================  ==============================================
``join``      client, rows, missing_rate, agreed keys, data set,     ``welcome``: round, rounds; or ``refused``
              base, processor
``next``      client, seconds to wait, the answer it still holds     ``task``, ``wait``, ``finish`` or ``rejoin``
``answer``    client, phase, round, start; tensors                   ``accepted``, ``refused`` or ``rejoin``
``leave``     client, why                                            ``accepted``
``status``    nothing                                                ``status``: the server's status
============  =====================================================  ==============================================

A ``task`` names its phase. The plain round has one phase, ``turn``: it carries the global adapter, and its answer the
client's. Further phases (keys, masks) use the same two messages, see :mod:`fs_fedmllm.distributed.phases`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Any

import torch

from fs_fedmllm.distributed.messages import Message, shown
from fs_fedmllm.errors import FedMLLMError
from fs_fedmllm.keys import is_number

JOIN, NEXT, ANSWER, LEAVE, STATUS = "join", "next", "answer", "leave", "status"
WELCOME, TASK, WAIT, FINISH, ACCEPTED = "welcome", "task", "wait", "finish", "accepted"
REFUSED, REJOIN = "refused", "rejoin"

#: Longest that the server lets a ``next`` wait for news, in seconds; also how often an idle client is heard of.
POLL = 20.0
#: Longest text of a peer's that is kept.
LONGEST = 500
#: Most entries of a mapping in a header.
MOST = 200


class ProtocolError(FedMLLMError):
    """A message's header lacks a field, or one has a value that cannot be."""


class NetworkError(FedMLLMError):
    """A distributed run cannot go on: the server is out of reach, or too few clients are there."""


class TurnedAwayError(NetworkError):
    """Too few clients are left, for the others cannot take part as they are; the message says why each cannot."""


class JoinRefusedError(FedMLLMError):
    """The server does not take this client; the message says what differs."""


def whole(header: Mapping[str, Any], name: str, low: int = 0, high: int = 2**31) -> int:
    """A whole number of a header.

    Raises:
        ProtocolError: it is missing, something else, or out of range.
    """
    value = header.get(name)
    if type(value) is not int or not low <= value <= high:
        raise ProtocolError(f"{name} must be a whole number from {low} to {high}, got {shown(value)}.")
    return value


def number(header: Mapping[str, Any], name: str, low: float = -math.inf, high: float = math.inf) -> float:
    """A finite number of a header.

    Raises:
        ProtocolError: as :func:`whole`.
    """
    value = header.get(name)
    if not is_number(value) or not math.isfinite(value):
        raise ProtocolError(f"{name} must be a number, got {shown(value)}.")
    if not low <= value <= high:
        raise ProtocolError(f"{name} must lie in [{low:g}, {high:g}], got {value:g}.")
    return float(value)


def text(header: Mapping[str, Any], name: str, default: str | None = None) -> str:
    """A text of a header, without control characters, cut to a bearable length.

    Raises:
        ProtocolError: it is missing or something else.
    """
    value = header.get(name, default)
    if not isinstance(value, str):
        raise ProtocolError(f"{name} must be a text, got {shown(value)}.")
    return "".join(letter if letter.isprintable() else " " for letter in value[:LONGEST])


def texts(header: Mapping[str, Any], name: str) -> dict[str, str]:
    """A mapping of a few short texts; empty where the header has none.

    Raises:
        ProtocolError: it is something else, or larger.
    """
    value = header.get(name, {})
    if not isinstance(value, dict) or len(value) > MOST or not all(isinstance(item, str) for item in value.values()):
        raise ProtocolError(f"{name} must be a mapping of at most {MOST} texts, got {shown(value)}.")
    return {key: text(value, key) for key in value}


def finite(figures: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Figures as JSON has them: what is not a number (an AUC over rows of one class) becomes null."""
    if figures is None:
        return None
    return {n: None if isinstance(v, float) and not math.isfinite(v) else v for n, v in figures.items()}


def refused(reason: str, says: str) -> Message:
    """A refusal.

    Args:
        reason: a word for programs: ``late``, ``duplicate``, ``config``...
        says: a sentence for people, with what to change.
    """
    return Message(REFUSED, {"reason": reason, "says": says})


def state_digest(state: Mapping[str, torch.Tensor]) -> str:
    """sha256 over names, dtypes, shapes and bytes of tensors; what an answer says it started from.

    By name, not in the mapping's order: safetensors reads them back in any.
    """
    found = hashlib.sha256()
    for name in sorted(state):
        dense = state[name].detach().cpu().contiguous()
        found.update(f"{name}|{dense.dtype}|{tuple(dense.shape)}|".encode())
        found.update(dense.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()
