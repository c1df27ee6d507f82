"""What NVFlare's own log in the server's kit tells of sites that show another site's certificate.

NVFlare takes nothing from the direct connection of such a site's process. Some of what it sends comes by way of the
site's daemon, some is lost, and NVFlare itself waits five minutes before it sends again: neither the server's process
nor an admin is told anything else.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

#: The log of a daemon or, below the job's id, of a job, as a daemon sees it that was started in its kit.
LOG = "log.txt"
#: What the lines have in common, for a search.
CLAIMED = "but claimed endpoint"
#: ``hospital-2`` is a daemon, ``hospital-2.JOB`` its process of a job.
_FOREIGN = re.compile(rf"authenticated as '([^']+)' {CLAIMED} '([^'.]+)[.']")
#: Bytes at the log's end that are looked at.
_TAIL = 1 << 18


def foreign_certificates(lines: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Sites that show another one's certificate.

    Returns:
        By site, whose certificate it showed last, and when (as the log says it).
    """
    found = [(_FOREIGN.search(line), line[:19]) for line in lines]
    return {match[2]: (match[1], when) for match, when in found if match}


def shows_another(site: str, owner: str) -> str:
    """The sentence about such a site; the log cannot tell whether it is that site at all."""
    return (
        f"A process that calls itself {site} shows the certificate of {owner!r}, so NVFlare takes nothing from it. "
        f"Either startup/client.crt and client.key in the kit of {site} are another site's: put its own there, start "
        f"NVFlare there anew, and submit the job again. Or somebody at {owner!r} claims to be {site}."
    )


def last_lines(workspace: Path, word: str) -> list[str]:
    """The last lines of the server's log that hold a word; empty where it lies elsewhere."""
    try:
        with (workspace / LOG).open("rb") as log:
            log.seek(max(0, os.fstat(log.fileno()).st_size - _TAIL))
            text = log.read(_TAIL).decode("utf-8", "replace")
    except OSError:
        return []
    return [line for line in text.splitlines() if word in line]
