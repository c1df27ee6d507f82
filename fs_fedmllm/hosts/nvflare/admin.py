"""With an admin's startup kit: submit a job, and see how it stands."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fs_fedmllm.errors import ConfigError, HostError
from fs_fedmllm.extras import require_extra
from fs_fedmllm.files.untrusted import read_json

#: What NVFlare raises that asking again does not change, by name.
_FINAL = (
    "AuthenticationError",
    "AuthorizationError",
    "InvalidArgumentError",
    "InvalidJobDefinition",
    "JobNotFound",
    "SubmitTokenConflict",
    "SubmitTokenJobDeleted",
)
#: What to do about a server that does not answer.
_START = (
    "Start NVFlare there (startup/start.sh of the server's kit); log.txt in that kit says so where another program "
    "has the port."
)


class AwayError(HostError):
    """The server does not answer; it may later."""


def _error(says: str, error: Exception, remedy: str = "") -> HostError:
    told = f"{says} ({type(error).__name__}: {error})."
    if type(error).__name__ in _FINAL:
        return HostError(told)
    return AwayError(f"{told} {remedy}".rstrip())


@contextlib.contextmanager
def session(kit: Path) -> Iterator[Any]:
    """A connection to the server with an admin's startup kit.

    Args:
        kit: the admin's folder, as ``nvflare provision`` made it.

    Raises:
        ConfigError: it is none.
        HostError: it does not know this admin (AwayError: there is no server).
    """
    require_extra("nvflare", "fs-fedmllm nvflare", error=HostError)
    path = kit / "startup" / "fed_admin.json"
    try:
        found = read_json(path)["admin"]
        name, place = str(found["username"]), f"{found.get('host')}:{found.get('port')}"
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{path} cannot be read ({error}). Name an admin's startup kit of nvflare provision."
        ) from error
    from nvflare.fuel.flare_api.flare_api import new_secure_session

    try:
        opened = new_secure_session(name, str(kit.absolute()), timeout=60.0)
    except Exception as error:  # its own kinds have no common base
        says = f"The server of {kit} cannot be reached as {name} at {place}, as its startup/fed_admin.json says"
        raise _error(says, error, _START) from error
    try:
        yield opened
    finally:
        with contextlib.suppress(Exception):  # it may be gone
            opened.close()


def submit(opened: Any, job: Path, token: str = "") -> str:
    """Submit a job; its id.

    Args:
        opened: a :func:`session`.
        job: its folder.
        token: submitted twice with the same one, it is one job.

    Raises:
        HostError: the server does not take it (AwayError: it does not answer).
    """
    try:
        return str(opened.submit_job(str(job.absolute()), **({"submit_token": token} if token else {})))
    except Exception as error:
        raise _error(f"The server does not take {job}", error) from error


def standing(opened: Any, job_id: str) -> tuple[str, dict[str, Any]]:
    """How a job stands: NVFlare's word for it, and our status (empty while nobody tells one).

    Raises:
        HostError: there is no such job (AwayError: nobody answers).
    """
    try:
        word = str(opened.get_job_meta(job_id).get("status"))
    except Exception as error:
        raise _error(f"The server tells nothing of the job {job_id}", error) from error
    ours: dict[str, Any] = {}
    if word == "RUNNING":
        with contextlib.suppress(Exception):  # the job may end in this moment
            stats = opened.show_stats(job_id, "server")
            ours = next((part["fs_fedmllm"] for part in stats.values() if "fs_fedmllm" in part), {})
    return word, ours


def sites_at_work(opened: Any, job_id: str) -> dict[str, bool]:
    """Sites that are connected, and whether they run a job; empty where nobody can tell."""
    try:
        told = opened.get_client_job_status() or []
        found: dict[str, bool] = {}
        for entry in told:
            name = str(entry["client_name"])
            found[name] = found.get(name, False) or entry.get("job_id") == job_id
        return found
    except Exception:  # a site that does not answer in this moment; the next look asks again
        return {}


def runs_at_server(opened: Any, job_id: str) -> bool:
    """Whether the server has a process for a job, whatever it says of it; True where nobody can tell.

    A server that was killed and started again goes on saying of its jobs that they run.
    """
    try:
        return job_id in [job.job_id for job in opened.get_system_info().job_info]
    except Exception:  # the next look asks again
        return True


def abort(opened: Any, job_id: str) -> None:
    """End a job, if it has not ended by itself."""
    with contextlib.suppress(Exception):  # it may have ended in this moment
        opened.abort_job(job_id)


def as_json(word: str, ours: dict[str, Any], why: str = "") -> str:
    """A standing for programs.

    Args:
        word: NVFlare's.
        ours: our status.
        why: the job does not run; left out where it does.
    """
    return json.dumps({"nvflare": word, **({"why": why} if why else {}), **ours}, indent=2)
