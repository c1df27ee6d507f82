"""Which configuration a process of NVFlare's has: the job's file, and what is this site's own affair.

The job is the same everywhere. A site's own keys (where its data lies, where it writes, its device and threads) stand
in ``local/fedmllm.yaml`` of its workspace, which no job can write.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from fs_fedmllm.config import Config, from_mapping, key_facts, read_yaml
from fs_fedmllm.config.host_reading import leaves, nested, put
from fs_fedmllm.config.metric_paths import metric_paths
from fs_fedmllm.distributed.messages import shown
from fs_fedmllm.errors import ConfigError

#: The run's configuration in a job's ``config`` folder, and a site's own in its workspace's ``local``.
JOB_FILE, SITE_FILE = "fedmllm.yaml", "fedmllm.yaml"
LOCAL = "local"
#: A template of one's own, beside the job's configuration.
TEMPLATE_FILE = "template.yaml"
#: Keys that name a place on the machine, or let code in: a job may not say them, the site itself may.
RESERVED = ("outdir", "data.root", "fedmllm.vision_cache.folder", "model.fedmllm.trust_remote_code")
#: As those, but nobody's here: where else the server writes.
_NOT_HERE = ("federate.save_to",)


def own_settings(workspace: Path) -> dict[str, Any]:
    """What a site says for itself, by dotted key; empty where it says nothing.

    Args:
        workspace: of the site, with the folders ``startup`` and ``local``.

    Raises:
        ConfigError: the file cannot be read, or holds a key that is not a site's own affair.
    """
    path = workspace / LOCAL / SITE_FILE
    if not path.is_file():
        return {}
    found = dict(leaves(read_yaml(path)))
    facts = key_facts()
    for name in found:
        known = [key for key in facts if f"{name}.".startswith(f"{key}.")]  # a mapping such as fedmllm.data is one key
        if not known or facts[known[0]].owner != "site":
            own = ", ".join(key for key, fact in facts.items() if fact.owner == "site")
            raise ConfigError(
                f"{path}: {name} is not a site's own affair, so it comes with the job. What a site may say here is "
                f"{own}."
            ).telling(f"{LOCAL}/{SITE_FILE} sets {shown(name)}, which is not a site's own affair")
    return found


def without_reserved(raw: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """A configuration as a job may carry it, and the keys that were left out of it."""
    given = dict(leaves(raw))
    left = nested((name, value) for name, value in given.items() if name not in RESERVED)
    return left, [name for name in given if name in RESERVED]


def is_file(template: str) -> bool:
    """Whether ``fedmllm.template`` is a file of one's own, not the name of one that ships."""
    return template.endswith((".yaml", ".yml"))


def check_job(raw: dict[str, Any], where: str) -> None:
    """Nothing in a job names a place on a machine or brings code.

    Raises:
        ConfigError: names the key.
    """
    given = dict(leaves(raw))
    for name in RESERVED:
        if given.get(name):
            raise ConfigError(
                f"{where}: a job may not set {name}; each site sets it in {LOCAL}/{SITE_FILE} of its workspace."
            )
    for name in _NOT_HERE:
        if given.get(name):
            raise ConfigError(f"{where}: {name} is not for a run on NVFlare; copy the adapter from the run's folder.")
    metrics = (raw.get("fedmllm") or {}).get("eval") or {}
    if paths := metric_paths(list(metrics.get("metrics") or ())):
        raise ConfigError(
            f"{where}: fedmllm.eval.metrics names the file {paths[0]}, which is code, and a job brings none. Evaluate "
            "with it afterwards, or take a metric by name."
        )


def site_config(job: Path, workspace: Path) -> Config:
    """The configuration of one site.

    Args:
        job: the job's ``config`` folder as it was deployed here.
        workspace: of the site; relative folders begin there, so that a run outlives the job's own folder.

    Raises:
        ConfigError: one of the files is not a configuration, or a site's file holds what is not its own affair.
    """
    raw = read_yaml(job / JOB_FILE)
    check_job(raw, str(job / JOB_FILE))
    template = str(dict(leaves(raw)).get("fedmllm.template") or "")
    if is_file(template):
        if template != TEMPLATE_FILE:
            raise ConfigError(
                f"{job / JOB_FILE}: fedmllm.template is {template!r}, a file on somebody's machine. Make the job with "
                "fs-fedmllm nvflare job, which takes the file along."
            )
        put(raw, "fedmllm.template", str(job / TEMPLATE_FILE))
    for name, value in own_settings(workspace).items():
        put(raw, name, value)
    put(raw, "federate.mode", "distributed")
    config = from_mapping(raw, str(job / JOB_FILE))
    for name, folder in (("outdir", config.outdir), ("data.root", config.data.root)):
        if folder and not os.path.isabs(folder):
            put(raw, name, str(workspace / folder))
    return from_mapping(raw, str(job / JOB_FILE))
