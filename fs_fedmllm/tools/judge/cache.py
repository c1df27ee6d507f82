"""Verdicts on disk: append-only JSON Lines in which a crash loses nothing that was paid for.

Events, one a line:

* ``sent``: a request is about to leave, with the most tokens it can cost;
* ``reply``: it was answered; synced to disk before the next step;
* ``unbilled``: it was refused in a way that is not charged (4xx, 5xx);
* ``output``: the form of output that the endpoint turned out to accept.

A ``sent`` with neither of the next two (time-out, broken connection, killed run) may have been charged; it counts
with its bound. A torn last line is cut off when the file is opened. One process at a time may hold the file.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from fs_fedmllm.files.locks import try_lock
from fs_fedmllm.files.untrusted import parse_json
from fs_fedmllm.tools.judge.budget import Usage
from fs_fedmllm.tools.judge.config import JudgeError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reply:
    """What the judge said about a row.

    Attributes:
        verdict: whether the answer is correct; None if the reply cannot be read.
        text: the reply.
        usage: tokens it was charged for.
        served: the model that the endpoint says it used.
        estimated: the endpoint sent no usage, so ``usage`` is the upper bound.
    """

    verdict: bool | None
    text: str
    usage: Usage
    served: str = ""
    estimated: bool = False


class VerdictCache:
    """The file, read into memory.

    Args:
        path: made if absent, with its folder.

    Raises:
        JudgeError: another process holds it, it cannot be opened, or a line before the last is damaged.
    """

    def __init__(self, path: Path):
        self.path = Path(path)
        self._replies: dict[str, list[Reply]] = {}
        self._open: dict[str, dict[int, Usage]] = {}
        self._count: dict[str, int] = {}
        self._outputs: dict[str, str] = {}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self.path, "a+b")  # noqa: SIM115 - held until close()
        except OSError as error:
            raise JudgeError(f"The judge's cache {self.path} cannot be opened: {error}") from error
        try:
            self._lock()
            self._load()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> VerdictCache:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Sync and let go of the file."""
        if not self._file.closed:
            self._sync()
            self._file.close()

    def replies(self, key: str) -> list[Reply]:
        """What the judge has said about a row, oldest first."""
        return self._replies.get(key, [])

    def output(self, model: str) -> str:
        """The form of output recorded for a model; empty if none."""
        return self._outputs.get(model, "")

    def spent(self, keys: Iterable[str]) -> Usage:
        """Tokens charged for these rows, by replies."""
        return sum((reply.usage for key in keys for reply in self.replies(key)), Usage())

    def unconfirmed(self, keys: Iterable[str]) -> Usage:
        """Upper bound of tokens of requests that may have been charged without a reply reaching us."""
        return sum((bound for key in keys for bound in self._open.get(key, {}).values()), Usage())

    def sent(self, key: str, bound: Usage) -> int:
        """Note that a request is about to leave; returns its number among those for this row, from 1."""
        number = self._count.get(key, 0) + 1
        self._append({"event": "sent", "key": key, "n": number, "bound": [bound.prompt, bound.completion]})
        return number

    def reply(self, key: str, number: int, reply: Reply) -> None:
        """Keep a reply; it is on the disk when this returns."""
        event = {
            "event": "reply",
            "key": key,
            "n": number,
            "verdict": reply.verdict,
            "text": reply.text,
            "usage": [reply.usage.prompt, reply.usage.completion],
            "served": reply.served,
            "estimated": reply.estimated,
        }
        self._append(event)
        self._sync()

    def unbilled(self, key: str, number: int, status: int) -> None:
        """Note that a request was refused by HTTP status and is not charged."""
        self._append({"event": "unbilled", "key": key, "n": number, "status": status})

    def note_output(self, model: str, output: str) -> None:
        """Note the form of output that an endpoint accepts for a model."""
        if self.output(model) != output:
            self._append({"event": "output", "model": model, "output": output})

    def _append(self, event: dict[str, Any]) -> None:
        self._file.write(json.dumps(event, ensure_ascii=True).encode() + b"\n")
        self._file.flush()  # to the system: a killed process loses nothing, a power cut only what is not synced
        self._take(event)

    def _sync(self) -> None:
        os.fsync(self._file.fileno())

    def _take(self, event: dict[str, Any]) -> None:
        kind = event["event"]
        if kind == "output":
            self._outputs[event["model"]] = event["output"]
            return
        key, number = event["key"], int(event["n"])
        waiting = self._open.setdefault(key, {})
        if kind == "sent":
            self._count[key] = max(number, self._count.get(key, 0))
            waiting[number] = Usage(*event["bound"])
        elif kind == "reply":
            waiting.pop(number, None)
            reply = Reply(event["verdict"], event["text"], Usage(*event["usage"]), event["served"], event["estimated"])
            self._replies.setdefault(key, []).append(reply)
        elif kind == "unbilled":
            waiting.pop(number, None)
        else:
            raise ValueError(f"unknown event {kind!r}")

    def _load(self) -> None:
        self._file.seek(0)
        data = self._file.read()
        whole = data.rfind(b"\n") + 1
        for number, line in enumerate(data[:whole].splitlines(), start=1):
            try:
                self._take(parse_json(line))
            except (ValueError, LookupError, TypeError, AttributeError) as error:
                raise JudgeError(
                    f"{self.path}:{number} is not an event of the judge's cache ({error}). Only the last line can be "
                    "torn by a crash, so something else changed the file; delete that line, or use another file."
                ) from error
        if whole < len(data):
            try:
                self._take(parse_json(data[whole:]))
            except (ValueError, LookupError, TypeError, AttributeError):
                self._file.truncate(whole)
            else:
                self._file.write(b"\n")  # only the line's end was lost

    def _lock(self) -> None:
        try:
            free = try_lock(self._file.fileno())
        except OSError as error:  # a file system without locks
            logger.warning("%s cannot be locked (%s): make sure that no other run uses it.", self.path, error.strerror)
            return
        if not free:
            raise JudgeError(
                f"Another run is using the judge's cache {self.path}; wait for it, or give this run its own file."
            )
