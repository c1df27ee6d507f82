"""Stay with a job until its run has ended, and submit it again whenever it breaks off.

NVFlare does not resume a job, nor does it give a running one to a site whose machine was away. Ours go on by
themselves from the last round when the same job comes again, so all that is needed is somebody who submits it, and who
does not go away with the server.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from fs_fedmllm.errors import ConfigError, HostError
from fs_fedmllm.files.untrusted import read_json
from fs_fedmllm.hosts.nvflare import admin
from fs_fedmllm.hosts.nvflare.admin import AwayError
from fs_fedmllm.hosts.nvflare.why import reason

#: Seconds between two looks at a job.
_LOOK = 5.0
#: How often a job is submitted again without a round more than before.
_TRIES = 3
#: How often a server is looked for that is away, in a row.
_AWAY = 720
#: Looks in a row at which a site is connected and does not run the job, or the server does not, before that counts.
_IDLE = 3

_Answer = TypeVar("_Answer")


class _Line:
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


class _Absent:
    """Sites of a job that are connected and do not run it: machines that were away and came back.

    Args:
        sites: of the job.
    """

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


def follow(
    connect: Callable[[], AbstractContextManager[Any]],
    job: Path,
    say: Callable[[str], None],
    pause: Callable[[float], object] = time.sleep,
) -> str:
    """Submit a job and stay with it until its run has ended.

    Args:
        connect: opens a session; again, where the server was away.
        job: its folder.
        say: takes a line of news.
        pause: waits so many seconds.

    Returns:
        The id of the job that ended well.

    Raises:
        ConfigError: the folder is no job's.
        HostError: it broke off three times in a row without a round more, or was aborted by somebody.
    """
    line = _Line(connect, say, pause)
    try:
        return _follow(line, job, _Absent(_sites_of(job)), say, pause)
    finally:
        line.close()


def _sites_of(job: Path) -> frozenset[str]:
    try:
        deployed = read_json(job / "meta.json")["deploy_map"].values()
        return frozenset(str(name) for names in deployed for name in names) - {"server"}
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ConfigError(f"{job} is no job of ours ({error}). Make one with fs-fedmllm nvflare job.") from error


def _follow(
    line: _Line, job: Path, absent: _Absent, say: Callable[[str], None], pause: Callable[[float], object]
) -> str:
    furthest, tries = -1, 0
    while True:
        token = uuid.uuid4().hex
        job_id = line.ask(partial(admin.submit, job=job, token=token))
        say(f"submitted {job} as {job_id}")
        absent.begin()
        reached, word, back, gone, waits = -1, "", "", 0, 0
        while not word.startswith("FINISHED") and gone < _IDLE:
            pause(_LOOK)
            word, ours = line.ask(partial(admin.standing, job_id=job_id))
            waits = waits + 1 if word == "SUBMITTED" or ours.get("doing") == "waiting for clients" else 0
            if waits == _IDLE and (found := line.ask(partial(reason, job_id=job_id, word=word))):
                say(f"the job waits: {found.says}")
            if not ours:
                runs = word != "RUNNING" or line.ask(partial(admin.runs_at_server, job_id=job_id))
                gone = 0 if runs else gone + 1
                continue
            if ours["round"] != reached:
                reached = ours["round"]
                say(f"round {reached} of {ours['rounds']} done, {ours['doing']}")
            if ours["doing"] == "finished":
                continue
            at_work = line.ask(partial(admin.sites_at_work, job_id=job_id))
            if not back and (names := absent.back(at_work)):
                back = f"{', '.join(names)} {'is' if len(names) == 1 else 'are'} there again and without the job"
                line.ask(partial(admin.abort, job_id=job_id))
        if word == "FINISHED:COMPLETED":
            return job_id
        if gone:
            word = "the server was started again and does not run it"
        found = None if back or gone else line.ask(partial(reason, job_id=job_id, word=word))
        if found and found.final:
            raise HostError(f"The job {job_id} has ended ({word}). {found.says}")
        if word == "FINISHED:ABORTED" and not back:
            raise HostError(f"The job {job_id} was aborted. Submit it again, and it goes on from its last round.")
        if found:
            word = f"{word}: {found.says}"
        tries = 0 if reached > furthest else tries + 1
        furthest = max(furthest, reached)
        if tries >= _TRIES:
            raise HostError(
                f"The job broke off again ({word}), {tries + 1} times in a row without a round more. The server's "
                f"run.log in the run's folder says why; so does 'nvflare job logs {job_id}'."
            )
        say(f"{back or f'the job broke off ({word})'}; it goes on from its last round")
