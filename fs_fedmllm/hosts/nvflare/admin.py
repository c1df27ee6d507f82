"""With an admin's startup kit: submit a job, see how it stands, and submit it again when it broke off.

NVFlare does not resume a job. Ours go on by themselves from the last round when the same job comes again, so all that
is needed is somebody who submits it.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fs_fedmllm.errors import ConfigError, HostError
from fs_fedmllm.extras import require_extra
from fs_fedmllm.files.untrusted import read_json

#: Seconds between two looks at a job.
_LOOK = 5.0
#: How often a job is submitted again without a round more than before.
_TRIES = 3


@contextlib.contextmanager
def session(kit: Path) -> Iterator[Any]:
    """A connection to the server with an admin's startup kit.

    Args:
        kit: the admin's folder, as ``nvflare provision`` made it.

    Raises:
        ConfigError: it is none.
        HostError: there is no server, or it does not know this admin.
    """
    require_extra("nvflare", "fs-fedmllm nvflare", error=HostError)
    path = kit / "startup" / "fed_admin.json"
    try:
        name = str(read_json(path)["admin"]["username"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ConfigError(
            f"{path} cannot be read ({error}). Name an admin's startup kit of nvflare provision."
        ) from error
    from nvflare.fuel.flare_api.flare_api import new_secure_session

    try:
        opened = new_secure_session(name, str(kit.absolute()), timeout=60.0)
    except Exception as error:  # its own kinds have no common base
        raise HostError(
            f"The server of {kit} cannot be reached as {name} ({type(error).__name__}: {error})."
        ) from error
    try:
        yield opened
    finally:
        opened.close()


def submit(opened: Any, job: Path) -> str:
    """Submit a job; its id.

    Raises:
        HostError: the server does not take it.
    """
    try:
        return str(opened.submit_job(str(job.absolute())))
    except Exception as error:
        raise HostError(f"The server does not take {job} ({type(error).__name__}: {error}).") from error


def standing(opened: Any, job_id: str) -> tuple[str, dict[str, Any]]:
    """How a job stands: NVFlare's word for it, and our status (empty while nobody tells one).

    Raises:
        HostError: there is no such job.
    """
    try:
        word = str(opened.get_job_meta(job_id).get("status"))
    except Exception as error:
        raise HostError(f"The server knows no job {job_id} ({type(error).__name__}: {error}).") from error
    ours: dict[str, Any] = {}
    if word == "RUNNING":
        with contextlib.suppress(Exception):  # the job may end in this moment
            stats = opened.show_stats(job_id, "server")
            ours = next((part["fs_fedmllm"] for part in stats.values() if "fs_fedmllm" in part), {})
    return word, ours


def follow(opened: Any, job: Path, say: Callable[[str], None], pause: Callable[[float], object] = time.sleep) -> str:
    """Submit a job and stay with it until its run has ended; submit it again whenever it breaks off.

    Args:
        opened: a :func:`session`.
        job: its folder.
        say: takes a line of news.
        pause: waits so many seconds.

    Returns:
        The id of the job that ended well.

    Raises:
        HostError: it broke off three times in a row without a round more, or was aborted by somebody.
    """
    furthest, tries = -1, 0
    while True:
        job_id = submit(opened, job)
        say(f"submitted {job} as {job_id}")
        reached, word = -1, ""
        while not word.startswith("FINISHED"):
            pause(_LOOK)
            word, ours = standing(opened, job_id)
            if ours and ours["round"] != reached:
                reached = ours["round"]
                say(f"round {reached} of {ours['rounds']} done, {ours['doing']}")
        if word == "FINISHED:COMPLETED":
            return job_id
        if word == "FINISHED:ABORTED":
            raise HostError(f"The job {job_id} was aborted. Submit it again, and it goes on from its last round.")
        tries = 0 if reached > furthest else tries + 1
        furthest = max(furthest, reached)
        if tries >= _TRIES:
            raise HostError(
                f"The job broke off again ({word}), {tries + 1} times in a row without a round more. The server's "
                f"run.log in the run's folder says why; so does 'nvflare job logs {job_id}'."
            )
        say(f"the job broke off ({word}); it goes on from its last round")


def as_json(word: str, ours: dict[str, Any]) -> str:
    """A standing for programs."""
    return json.dumps({"nvflare": word, **ours}, indent=2)
