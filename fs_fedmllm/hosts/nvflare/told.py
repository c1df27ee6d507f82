"""What the server's process leaves in its workspace for whoever started it: where the run is, and how it ended."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fs_fedmllm.files.atomic import write_atomically

#: The file's name.
TOLD = "fedmllm.json"


def tell(workspace: Path, told: Mapping[str, Any]) -> None:
    """Write it.

    Args:
        workspace: of the server.
        told: ``folder`` of the run and ``error``, each empty where there is none.
    """
    write_atomically(workspace / TOLD, (json.dumps(dict(told)) + "\n").encode())
