"""Watch one job from its submission to its end, over servers that go away and sites that come back."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from fs_fedmllm.distributed.roster import REFUSED
from fs_fedmllm.errors import HostError
from fs_fedmllm.hosts.nvflare import admin
from fs_fedmllm.hosts.nvflare.admin import AwayError
from fs_fedmllm.hosts.nvflare.why import SUBMITTED, reason

#: Seconds between two looks at a job.
_LOOK = 5.0
#: How often a server is looked for that is away, in a row.
_AWAY = 720
#: Looks in a row at which a site is connected and does not run the job, or the server does not, before that counts.
_IDLE = 3
#: Looks in a row at which the server's process runs and tells nothing of the run: an hour, as it loads the base then.
_SILENT = 720

_Answer = TypeVar("_Answer")


class Line:
    """Asks the server, and waits for one that is away.

    Args:
        connect: opens a session, see :func:`fs_fedmllm.hosts.nvflare.admin.session`.
        say: takes a line of news.
        pause: waits so many seconds.
    """

    def __init__(
        self,
        connect: Callable[[], AbstractContextManager[Any]],
        say: Callable[[str], None],
        pause: Callable[[float], object],
    ):
        self._connect = connect
        self._say = say
        self._pause = pause
        self._held = contextlib.ExitStack()
        self._opened: Any = None
        self._known = False  # whether there has been a server at all

    def ask(self, question: Callable[[Any], _Answer]) -> _Answer:
        """The answer to a question to a session.

        Raises:
            HostError: as the question does; AwayError after an hour and more, or where there was no server at all.
        """
        for attempt in range(_AWAY):
            try:
                if self._opened is None:
                    self._opened = self._held.enter_context(self._connect())
                    self._known = True
                return question(self._opened)
            except AwayError as error:
                self.close()
                if not self._known or attempt + 1 == _AWAY:
                    raise
                if not attempt:
                    self._say(f"waiting for the server: {error}")
                self._pause(_LOOK)
        raise AssertionError("the last attempt answers or raises")

    def close(self) -> None:
        """End the session."""
        self._held.close()
        self._opened = None


class Absent:
    """Sites of a job that are connected and do not run it: machines that were away and came back."""

    def __init__(self, sites: frozenset[str]):
        self._sites = sites
        self._idle: Counter[str] = Counter()
        self._asked_for: set[str] = set()  # a job was submitted again for them, and they have not run it yet

    def begin(self) -> None:
        """The job was submitted, once more perhaps."""
        self._idle.clear()

    def back(self, at_work: Mapping[str, bool]) -> list[str]:
        """Sites for which the job is to be submitted again: once, until they have run it.

        Args:
            at_work: connected sites, and whether they run the job.
        """
        for site in self._sites:
            if at_work.get(site):
                self._asked_for.discard(site)
            self._idle[site] = self._idle[site] + 1 if at_work.get(site) is False else 0
        found = sorted(s for s, looks in self._idle.items() if looks >= _IDLE and s not in self._asked_for)
        self._asked_for.update(found)
        return found


class News:
    """Says news, and what stays as it is only once."""

    def __init__(self, say: Callable[[str], None]):
        self.say = say
        self._said: set[str] = set()

    def once(self, news: str, before: str = "") -> None:
        """Say it, with what comes before it, unless it was said."""
        if news not in self._said:
            self._said.add(news)
            self.say(before + news)


def _who_waits(ours: Mapping[str, Any]) -> str:
    """Which clients a server that waits does not have yet."""
    names = [str(entry["name"]) for entry in ours.get("clients", ()) if entry.get("state") != "there"]
    return f"its server waits for {', '.join(dict.fromkeys(names))}" if names else ""


def _refused(ours: Mapping[str, Any]) -> list[str]:
    """Why clients take no part; those of a site have the same reason."""
    whys = [str(entry.get("why") or "") for entry in ours.get("clients", ())]
    return list(dict.fromkeys(why.removeprefix(REFUSED) for why in whys if why.startswith(REFUSED)))


@dataclass
class Watched:
    """What was seen of a job from its submission to its end.

    Attributes:
        job_id: NVFlare's.
        word: how it stood last, in NVFlare's words or, where those are not true, in ours.
        reached: rounds done; -1 before there was a status.
        back: that sites are there again without the job, which was ended for them.
        own: whether NVFlare's word for its end is ours: it has no reason of NVFlare's.
        done: whether the run is done, whatever NVFlare says.
    """

    job_id: str
    word: str = ""
    reached: int = -1
    back: str = ""
    own: bool = False
    done: bool = False


def watch(
    line: Line, job_id: str, absent: Absent, news: News, pause: Callable[[float], object], wait: float
) -> Watched:
    """Stay with a job until it has ended.

    Raises:
        HostError: it waited for too long for sites that are not connected, and was withdrawn.
    """
    seen = Watched(job_id)
    gone = silent = waits = lacking = 0
    while not seen.word.startswith("FINISHED"):
        pause(_LOOK)
        seen.word, ours = line.ask(partial(admin.standing, job_id=job_id))
        waits = waits + 1 if seen.word == SUBMITTED or ours.get("doing") == "waiting for clients" else 0
        if waits and waits % _IDLE == 0:
            found = line.ask(partial(reason, job_id=job_id, word=seen.word))
            if says := found.says if found else _who_waits(ours):
                news.once(says, "the job waits: ")
            lacking = lacking + _IDLE if found and seen.word == SUBMITTED else 0
            if found and 0 < wait <= lacking * _LOOK:
                line.ask(partial(admin.abort, job_id=job_id))
                raise HostError(
                    f"The job {job_id} has waited {wait:g} seconds for its sites, and was withdrawn. {found.says} "
                    "Then submit it again; with --wait 0 it waits as long as it takes."
                )
        if not ours:
            if seen.word != "RUNNING":
                continue
            gone = 0 if line.ask(partial(admin.runs_at_server, job_id=job_id)) else gone + 1
            silent += 1
            if gone >= _IDLE or silent >= _SILENT:
                seen.own = True
                seen.word = "the server was started again and does not run it"
                if gone < _IDLE:
                    seen.word = f"the server's process tells nothing for {silent * _LOOK:g} seconds"
                    line.ask(partial(admin.abort, job_id=job_id))
                break
            continue
        silent = 0
        if ours["round"] != seen.reached:
            seen.reached = ours["round"]
            news.say(f"round {seen.reached} of {ours['rounds']} done, {ours['doing']}")
        for says in _refused(ours):
            news.once(says)
        seen.done = ours["doing"] == "finished"
        if seen.done:
            continue
        at_work = line.ask(partial(admin.sites_at_work, job_id=job_id))
        if not seen.back and (names := absent.back(at_work)):
            seen.back = f"{', '.join(names)} {'is' if len(names) == 1 else 'are'} there again and without the job"
            line.ask(partial(admin.abort, job_id=job_id))
    return seen
