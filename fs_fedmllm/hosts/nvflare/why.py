"""Why a job does not run, or has ended badly: a sentence that names the site, the file, the key and what to do.

NVFlare itself says of such a job that it is submitted, was aborted, or met an exception. What there is to know lies in
the server's kit: what our controller has told there, and NVFlare's own log, which an admin may search.
"""

from __future__ import annotations

import contextlib
import json
import re
from dataclasses import dataclass
from typing import Any

from fs_fedmllm.hosts.nvflare.policy import ALLOW_LIST, CONTROLLER, EXECUTOR, RESOURCES
from fs_fedmllm.hosts.nvflare.server_log import CLAIMED, LOG, foreign_certificates, shows_another
from fs_fedmllm.hosts.nvflare.settings import LOCAL
from fs_fedmllm.hosts.nvflare.sites import SERVER, sites_of
from fs_fedmllm.hosts.nvflare.told import TOLD

#: NVFlare's words in ``log.txt`` of the server's kit for a site whose process has ended a job, and why. The reason may
#: be ``unsafe component`` where a class is not listed, but ``infrastructure error`` as well.
_ENDED_BY = re.compile(r"due to reported failure from (\S+): (.+)")
#: A line of NVFlare's traceback where a class is not listed. The line that says so will not do: its words ``not
#: authorized`` make NVFlare's client take the answer for a refusal of the question.
_UNLISTED = "raise ComponentNotAuthorized("
_NOT_LISTED = "not in allow_list"
#: NVFlare's words for a job that waits for its sites, and for one that has waited for too long: ten looks, the last of
#: them ten minutes apart.
SUBMITTED, GIVEN_UP = "SUBMITTED", "FINISHED:CAN_NOT_SCHEDULE"
#: NVFlare waits for a process that has not come to the server, or hangs.
_DONE = (
    "The run is done, and its results are in its folder in the server's kit. NVFlare calls the job running until the "
    "processes of all its sites have ended, or 15 minutes are over; abort the job to have it end now."
)


@dataclass(frozen=True)
class Reason:
    """Why a job does not run.

    Attributes:
        says: a sentence or two.
        final: whether the same job would end the same way if it were submitted again.
    """

    says: str
    final: bool


def reason(opened: Any, job_id: str, word: str) -> Reason | None:
    """Why a job does not run, as far as this admin may know it; None where it runs or ran well."""
    if word in (SUBMITTED, GIVEN_UP):
        return _waits(opened, job_id)
    if word == "FINISHED:COMPLETED":
        return None
    lines = _lines(opened, SERVER, job_id, LOG)
    foreign = _foreign(lines)
    if not word.startswith("FINISHED"):
        if told_by_server(opened, job_id).get("done") is True:
            return Reason(_DONE, False)
        return Reason(foreign, False) if foreign else None
    found = _ended(opened, job_id, lines)
    if found is None:
        return Reason(foreign, False) if foreign else None
    # A site that takes no part may be what the job ended for; where it is not, it is good to know all the same.
    return found if foreign in found.says else Reason(f"{found.says} {foreign}", found.final)


def _foreign(lines: list[str]) -> str:
    return " ".join(shows_another(site, owner) for site, (owner, _) in foreign_certificates(lines).items())


def _ended(opened: Any, job_id: str, lines: list[str]) -> Reason | None:
    """Why a job has ended badly."""
    ended = [found.groups() for line in lines if (found := _ENDED_BY.search(line))]
    for site, why in ended:
        own = _lines(opened, site, f"{_UNLISTED}$", f"{job_id}/{LOG}")
        if why.strip() == "unsafe component" or _UNLISTED in [line.strip() for line in own]:
            return Reason(_unlisted(site, EXECUTOR), True)
    if _server_does_not_list(opened, job_id):
        return Reason(_unlisted("The server", CONTROLLER), True)
    told = told_by_server(opened, job_id)
    ours = Reason(str(told.get("error") or ""), told.get("final") is True)
    if ours.final:
        return ours
    for site, why in ended:
        return Reason(
            f"{site} has ended the job ({why.strip()}): its process there could not begin or broke off. Run "
            f"fs-fedmllm doctor --nvflare KIT there; the job's own {LOG} in that kit says more.",
            False,
        )
    if ours.says:
        return ours
    if detail := _deployment(opened, job_id):
        return Reason(f"NVFlare could not hand out the job: {detail}.", False)
    return None


def _unlisted(site: str, needed: str) -> str:
    return (
        f"{site} does not let our jobs in: {ALLOW_LIST} in {LOCAL}/{RESOURCES} of its kit lacks {needed}. Run "
        "fs-fedmllm nvflare site KIT there, and submit the job again."
    )


def _waits(opened: Any, job_id: str) -> Reason | None:
    """A job that NVFlare has not started: which of its sites are not connected."""
    with contextlib.suppress(Exception):  # nobody answers in this moment; the next look asks again
        meta = opened.get_job_meta(job_id)
        wanted = sites_of(meta)
        there = {str(client.name) for client in opened.get_connected_client_list()}
        away = [site for site in wanted if site not in there]
        if away:
            says = (
                f"Not connected to the server: {', '.join(away)}; connected: {', '.join(sorted(there)) or 'nobody'}. "
                f"The job waits for {meta.get('min_clients')} of its {len(wanted)} sites. Start NVFlare there "
                "(startup/start.sh of the kit), or make the job with --sites, whose names are those of the "
                "certificates."
            )
            foreign = foreign_certificates(_lines(opened, SERVER, CLAIMED, LOG))
            for site in sorted(foreign.keys() & set(away)):
                says += f" At {foreign[site][1]}: {shows_another(site, foreign[site][0])}"
            return Reason(says, False)
    return None


def _lines(opened: Any, target: str, pattern: str, file: str) -> list[str]:
    """Lines of a log that hold a word; empty where this admin may not search it, or it lies elsewhere."""
    with contextlib.suppress(Exception):
        return str(opened.grep_target(target, pattern=pattern, file=file)).splitlines()
    return []


def _server_does_not_list(opened: Any, job_id: str) -> bool:
    with contextlib.suppress(Exception):
        lines = str(opened.get_job_logs(job_id, SERVER)["logs"].get(SERVER) or "").splitlines()
        return any(_NOT_LISTED in line and CONTROLLER in line for line in lines)
    return False


def told_by_server(opened: Any, job_id: str) -> dict[str, Any]:
    """What the server's process has told of a job (:func:`fs_fedmllm.hosts.nvflare.told.tell`); empty if nothing."""
    with contextlib.suppress(Exception):
        found = json.loads(opened.cat_target(SERVER, file=TOLD))
        return found if isinstance(found, dict) and found.get("job") == job_id else {}
    return {}


def _deployment(opened: Any, job_id: str) -> str:
    with contextlib.suppress(Exception):
        detail = opened.get_job_meta(job_id).get("job_deploy_detail") or []
        return "; ".join(str(entry) for entry in detail if not str(entry).endswith(": OK"))
    return ""
