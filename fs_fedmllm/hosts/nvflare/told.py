"""What a site's processes leave in its workspace for the people there, and what of it the other sites may read.

The server's says where the run is, and how it ended; a site's, why it took no part. ``doctor --nvflare`` shows it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fs_fedmllm.distributed.protocol import TurnedAwayError
from fs_fedmllm.errors import ConfigError, DataError, FedMLLMError, ModelError
from fs_fedmllm.files.atomic import write_atomically
from fs_fedmllm.files.untrusted import object_if_any

#: The file's name.
TOLD = "fedmllm.json"


def tell(workspace: Path, told: Mapping[str, Any]) -> None:
    """Write it, for this user alone: an error may quote a row.

    Args:
        workspace: of the server or of a site.
        told: ``job`` (NVFlare's id), ``folder`` of the run and ``error``, each empty where there is none; of the
            server's also ``final``, whether the same job would end the same way, and ``done``, whether the run is.
    """
    write_atomically(workspace / TOLD, (json.dumps(dict(told)) + "\n").encode(), private=True)


def last_told(workspace: Path) -> dict[str, Any]:
    """What was written last; empty where nothing was, or nothing that can be read."""
    return object_if_any(workspace / TOLD)


def may_read(error: Exception) -> str:
    """What of a site's error the server may read: which part of the site is wrong, never what is in it.

    An error's text may quote a row or a path, so it stays at the site.
    """
    told = error.told if isinstance(error, FedMLLMError) else ""
    return told or f"it has met a {type(error).__name__}"


def takes_no_part(site: str, says: str) -> str:
    """The sentence about a site for whoever runs the job."""
    return (
        f"{site} takes no part: {says}. Correct that there (fs-fedmllm doctor --nvflare KIT says more on that "
        "machine), and submit the job again."
    )


def is_final(error: FedMLLMError) -> bool:
    """Whether the same job, submitted again, would end the same way."""
    return isinstance(error, ConfigError | DataError | ModelError | TurnedAwayError)
