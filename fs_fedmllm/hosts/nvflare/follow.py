"""Stay with a job until its run has ended, and submit it again whenever it breaks off.

NVFlare does not resume a job, nor does it give a running one to a site whose machine was away. Ours go on by
themselves from the last round when the same job comes again, so all that is needed is somebody who submits it, and who
does not go away with the server.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

from fs_fedmllm.errors import ConfigError, HostError
from fs_fedmllm.files.untrusted import read_json
from fs_fedmllm.hosts.nvflare import admin
from fs_fedmllm.hosts.nvflare.sites import sites_of
from fs_fedmllm.hosts.nvflare.watch import Absent, Line, News, Watched, watch
from fs_fedmllm.hosts.nvflare.why import reason, told_by_server

#: How often in a row a job may break off without a round more than before.
_TRIES = 3
#: Seconds that a job which has never run waits for sites that are not connected.
WAIT = 120.0


def follow(
    connect: Callable[[], AbstractContextManager[Any]],
    job: Path,
    say: Callable[[str], None],
    pause: Callable[[float], object] = time.sleep,
    wait: float = WAIT,
) -> str:
    """Submit a job and stay with it until its run has ended.

    Args:
        connect: opens a session; again, where the server was away.
        job: its folder.
        say: takes a line of news.
        pause: waits so many seconds.
        wait: seconds that the job may wait for sites that are not connected, until it has run once; 0 is no limit.

    Returns:
        The id of the job that ended well.

    Raises:
        ConfigError: the folder is no job's.
        HostError: it would end the same way again, as it has twice in a row without a round more (for other reasons
            than one: three times); its sites do not come; or it was aborted by somebody.
    """
    line = Line(connect, say, pause)
    try:
        return _follow(line, job, Absent(_sites_in(job)), News(say), pause, wait)
    finally:
        line.close()


def _sites_in(job: Path) -> frozenset[str]:
    try:
        return frozenset(sites_of(read_json(job / "meta.json")))
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{job} is not a job made by fs-fedmllm ({error}). Make one with fs-fedmllm nvflare job."
        ) from error


def _is_done(line: Line, seen: Watched) -> bool:
    """Whether a job that NVFlare does not call completed has ended well."""
    if seen.word == "FINISHED:COMPLETED":
        return True
    return seen.done or line.ask(partial(told_by_server, job_id=seen.job_id)).get("done") is True


def _follow(line: Line, job: Path, absent: Absent, news: News, pause: Callable[[float], object], wait: float) -> str:
    furthest, tries, before = 0, 0, ""
    while True:
        token = uuid.uuid4().hex
        job_id = line.ask(partial(admin.submit, job=job, token=token))
        news.say(f"submitted {job} as {job_id}")
        absent.begin()
        seen = watch(line, job_id, absent, news, pause, wait)
        wait = 0.0  # its sites are known to be there; they will be again
        if _is_done(line, seen):
            if not seen.word.startswith("FINISHED"):  # it waits, up to 15 minutes, for a site that took no part
                line.ask(partial(admin.abort, job_id=job_id))
            return job_id
        found = None if seen.back or seen.own else line.ask(partial(reason, job_id=job_id, word=seen.word))
        if found and found.final:
            raise HostError(f"The job {job_id} has ended ({seen.word}). {found.says}")
        if seen.word == "FINISHED:ABORTED" and not seen.back:
            raise HostError(f"The job {job_id} was aborted. Submit it again, and it goes on from its last round.")
        says = found.says if found else ""
        word = f"{seen.word}: {says}" if says else seen.word
        tries = 0 if seen.reached > furthest else tries + 1
        furthest = max(furthest, seen.reached)
        if tries > 1 and says and says == before:
            raise HostError(
                f"The job broke off twice in the same way without a round more ({seen.word}). {says} Then submit it "
                "again: it goes on from its last round."
            )
        before = says
        if tries >= _TRIES:
            raise HostError(
                f"The job broke off again ({word}), {tries} times in a row without a round more. The server's "
                f"run.log in the run's folder says why; so does 'nvflare job logs {job_id}'."
            )
        news.say(f"{seen.back or f'the job broke off ({word})'}; it goes on from its last round")
