"""A configuration as an NVFlare job: a folder of three small files, and no code."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from fs_fedmllm.config import Config
from fs_fedmllm.config.host_reading import put
from fs_fedmllm.files.untrusted import WRITTEN, read_regular
from fs_fedmllm.hosts.nvflare.policy import CONTROLLER, EXECUTOR
from fs_fedmllm.hosts.nvflare.settings import JOB_FILE, TEMPLATE_FILE, is_file

#: Seconds until a site that got no task asks again, and until the server looks at its tasks again. NVFlare's own
#: default of 2 s would be most of what a round costs beside training.
POLL = 0.2
#: Seconds that a site's process waits for the server's before NVFlare ends the whole job: by default 60, too few for a
#: busy machine. A site that cannot reach the server must not end the run of the others, however long that takes; the
#: server leaves it behind by itself (``fedmllm.network.begin_timeout``), and its process ends with the job.
BEGIN = 365 * 86400.0


def write_job(
    folder: Path, config: Config, raw: Mapping[str, Any], sites: Mapping[str, Sequence[int]], label: str
) -> None:
    """Write a job's folder.

    Args:
        folder: to make; it is the job's name.
        config: what is to run.
        raw: as it was given, without a site's own affairs.
        sites: site -> ids of its clients.
        label: name of the configuration.

    Raises:
        OSError: the folder is there already, or cannot be made; or the template cannot be read.
    """
    own = config.fedmllm.template
    template = read_regular(Path(own), WRITTEN) if is_file(own) else None  # its content goes along, not its path
    arguments = {"sites": {site: list(clients) for site, clients in sites.items()}, "label": label}
    quorum = config.fedmllm.network.min_clients or (len(sites) + 1) // 2
    meta = {
        "name": folder.name,
        "resource_spec": {},
        "deploy_map": {"app": ["server", *sites]},
        "min_clients": min(quorum, len(sites)),
    }
    server = {
        "format_version": 2,
        "server": {"heart_beat_timeout": 600, "task_request_interval": POLL},
        "task_data_filters": [],
        "task_result_filters": [],
        "components": [],
        "workflows": [{"id": "fedmllm", "path": CONTROLLER, "args": arguments}],
    }
    client = {
        "format_version": 2,
        "max_runner_sync_timeout": BEGIN,
        "executors": [
            {
                "tasks": ["fedmllm_*"],
                "executor": {"path": EXECUTOR, "args": arguments},
            }
        ],
        "task_data_filters": [],
        "task_result_filters": [],
        "components": [],
    }
    inner = folder / "app" / "config"
    inner.mkdir(parents=True)
    for path, content in (
        (folder / "meta.json", meta),
        (inner / "config_fed_server.json", server),
        (inner / "config_fed_client.json", client),
    ):
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    carried = dict(raw)
    if template is not None:
        (inner / TEMPLATE_FILE).write_bytes(template)
        put(carried, "fedmllm.template", TEMPLATE_FILE)
    (inner / JOB_FILE).write_text(yaml.safe_dump(carried, sort_keys=False), encoding="utf-8")
