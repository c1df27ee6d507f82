"""``fs-fedmllm run --engine nvflare``: a job in NVFlare's simulator, whose server and sites are processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from fs_fedmllm.config import Config, from_mapping, key_facts, to_mapping
from fs_fedmllm.config.host_reading import leaves, nested, put
from fs_fedmllm.errors import HostError
from fs_fedmllm.extras import check_extras, require_extra
from fs_fedmllm.files.untrusted import read_json
from fs_fedmllm.hosts.nvflare.job import write_job
from fs_fedmllm.hosts.nvflare.policy import resources
from fs_fedmllm.hosts.nvflare.settings import LOCAL, SITE_FILE, check_job, without_reserved
from fs_fedmllm.hosts.nvflare.sites import dealt
from fs_fedmllm.hosts.nvflare.told import last_told
from fs_fedmllm.runs.run_folder import check_output
from fs_fedmllm.scenarios.federated_data import counted

#: Sites of a run whose number nobody names; each holds its share of the clients.
SITES = 3
#: What of NVFlare's own log is shown beside ours.
_LOG = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"plain": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"}},
    "handlers": {
        "file": {"class": "logging.FileHandler", "filename": "log.txt", "formatter": "plain", "level": "INFO"},
        "shown": {
            "class": "logging.StreamHandler",
            "stream": "ext://sys.stderr",
            "formatter": "plain",
            "level": "WARNING",
        },
    },
    "loggers": {"fs_fedmllm": {"level": "WARNING", "handlers": ["shown"]}},
    "root": {"level": "INFO", "handlers": ["file"]},
}


def run_simulated(config: Config, raw: Mapping[str, Any], path: Path, sites: int = 0) -> tuple[dict[str, Any], Path]:
    """Run a configuration on one machine in NVFlare's simulator.

    Args:
        config: what to run.
        raw: nested, as it was given.
        path: the file that it comes from.
        sites: how many; 0 takes three, or one for each client if there are fewer.

    Returns:
        The results (as in results.json) and the run folder.

    Raises:
        FedMLLMError: as for every run; HostError if NVFlare ended without results.
    """
    require_extra("nvflare", "--engine nvflare", error=HostError)
    everywhere = dict(raw)
    put(everywhere, "federate.mode", "distributed")
    config = from_mapping(everywhere, str(path))  # what does not run across sites is refused here
    if config.counts_clients:
        config, _ = counted(config)
        put(everywhere, "federate.client_num", config.federate.client_num)
    check_extras(config)
    check_output(config.outdir)
    names = [f"site-{i}" for i in range(1, (sites or min(SITES, config.federate.client_num)) + 1)]
    job, left = without_reserved(everywhere)
    check_job(job, str(path))
    with tempfile.TemporaryDirectory(prefix="fs-fedmllm-nvflare-") as name:
        root = Path(name)
        write_job(root / "job", config, job, dealt(names, config.federate.client_num), path.stem)
        workspace = root / "workspace"
        (workspace / LOCAL).mkdir(parents=True)
        # Each site's own file: the places that the configuration names, as this process sees them.
        own = _own(config, left)
        (workspace / LOCAL / SITE_FILE).write_text(yaml.safe_dump(own), encoding="utf-8")
        (workspace / LOCAL / "resources.json").write_text(json.dumps(resources()), encoding="utf-8")
        (root / "log.json").write_text(json.dumps(_LOG), encoding="utf-8")
        code = _simulate(root, workspace, names)
        return _results(workspace, code)


def _own(config: Config, names: list[str]) -> dict[str, Any]:
    values = dict(leaves(to_mapping(config)))
    own = {name: values[name] for name in names if key_facts()[name].owner == "site"}
    own = {name: os.path.abspath(value) if isinstance(value, str) and value else value for name, value in own.items()}
    return nested({**own, "outdir": os.path.abspath(config.outdir)}.items())


def _simulate(root: Path, workspace: Path, names: list[str]) -> int:
    """Run the simulator; its exit code."""
    command = [sys.executable, "-m", "nvflare.private.fed.app.simulator.simulator", str(root / "job")]
    command += ["-w", str(workspace), "-c", ",".join(names), "-t", str(len(names)), "-l", str(root / "log.json")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path[:1], os.environ.get("PYTHONPATH", "")])}
    with (root / "simulator.txt").open("wb") as said:
        # In a session of its own: Ctrl-C is ours, and NVFlare's processes end with the simulator.
        process = subprocess.Popen(command, cwd=root, stdout=said, env=environment, start_new_session=True)
        try:
            return process.wait()
        except BaseException:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            raise


def _results(workspace: Path, code: int) -> tuple[dict[str, Any], Path]:
    told = last_told(workspace / "server")
    folder = Path(told.get("folder") or ".")
    if told.get("error") or not (folder / "results.json").is_file():
        raise HostError(told.get("error") or f"NVFlare's simulator ended with exit code {code}, and gave no results.")
    return read_json(folder / "results.json"), folder
