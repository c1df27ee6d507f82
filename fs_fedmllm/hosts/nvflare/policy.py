"""What a site's workspace must say before a job of ours may run there: made ready, and examined.

A workspace is what ``nvflare provision`` gives a site: ``startup`` with its certificate, and ``local`` with what it
decides for itself. Only ``local`` is touched here.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from fs_fedmllm.config.host_reading import nested
from fs_fedmllm.errors import ConfigError, FedMLLMError
from fs_fedmllm.files.atomic import write_atomically
from fs_fedmllm.files.untrusted import read_json, read_mapping
from fs_fedmllm.hosts.nvflare.settings import LOCAL, SITE_FILE, own_settings
from fs_fedmllm.hosts.nvflare.told import last_told
from fs_fedmllm.quoting import shell_word

#: What a job of ours builds at the server and at a site. Whole names, not our package's prefix: a job may build
#: whatever the list lets in, with arguments of its own, and there are classes here that write files.
CONTROLLER = "fs_fedmllm.hosts.nvflare.controller.FedMLLMController"
EXECUTOR = "fs_fedmllm.hosts.nvflare.executor.FedMLLMExecutor"
ALLOW_LIST, STREAMING = "class_allow_list", "allow_log_streaming"
#: In ``startup/fed_*.json``; NVFlare's default is yes. The job says which clients there are and what they promise
#: each other, so a server that may change it need not break any of that.
SIGNED = "require_signed_jobs"
RESOURCES = "resources.json"
#: Where NVFlare's template for a server keeps jobs and snapshots, whoever else does on this machine.
_SHARED = "/tmp/nvflare/"


def resources() -> dict[str, Any]:
    """The part of ``resources.json`` that is about us: our classes may be built, and no log goes to the server."""
    from nvflare.app_common.default_component_policy import DEFAULT_CLASS_ALLOW_LIST

    return {ALLOW_LIST: [*DEFAULT_CLASS_ALLOW_LIST, CONTROLLER, EXECUTOR], STREAMING: False}


def is_server(workspace: Path) -> bool:
    """Whether a workspace is the server's.

    Raises:
        ConfigError: it is neither a server's nor a client's.
    """
    for role in ("server", "client"):
        if (workspace / "startup" / f"fed_{role}.json").is_file():
            return role == "server"
    raise ConfigError(
        f"{workspace} is not an NVFlare workspace: it has no startup/fed_server.json or fed_client.json. Name the "
        "folder that nvflare provision made for this site."
    )


def read_resources(workspace: Path) -> dict[str, Any]:
    """``local/resources.json``, or the ``.default`` that NVFlare takes where there is none.

    Raises:
        ConfigError: neither can be read.
    """
    local = workspace / LOCAL
    path = local / RESOURCES if (local / RESOURCES).is_file() else local / f"{RESOURCES}.default"
    return read_mapping(path, ConfigError)


def make_ready(workspace: Path, data: str = "", *, own_rows: bool = False) -> list[str]:
    """Let our jobs run at a site, and say where its data is.

    Args:
        workspace: of the site, as ``nvflare provision`` made it.
        data: its folder of data; empty leaves it as it is.
        own_rows: all training rows there are this site's client's.

    Returns:
        What was changed, a sentence each.

    Raises:
        ConfigError: it is no workspace, or one of its files cannot be read.
    """
    server, found, said = is_server(workspace), read_resources(workspace), []
    allowed = found.get(ALLOW_LIST)
    if not isinstance(allowed, list):
        allowed = resources()[ALLOW_LIST]
    needed = CONTROLLER if server else EXECUTOR
    if not _allows(allowed, needed):
        allowed = [*allowed, needed]
        said.append(f"{ALLOW_LIST} has {needed} now.")
    found[ALLOW_LIST] = allowed
    if not server and found.get(STREAMING, True) is not False:
        found[STREAMING] = False
        said.append(f"{STREAMING} is false now: the site's error log stays at the site.")
    if server:
        found = _moved(found, f"{workspace.absolute()}/storage/")
    path = workspace / LOCAL / RESOURCES
    if not path.is_file() or read_json(path) != found:
        write_atomically(path, (json.dumps(found, indent=2) + "\n").encode())
    own = own_settings(workspace)
    if data:
        if not Path(data).is_dir():
            raise ConfigError(f"{data}: there is no such folder.")
        own["data.root"] = str(Path(data).absolute())
        said.append(f"data.root is {own['data.root']}.")
    if own_rows:
        own["fedmllm.network.own_rows"] = True
    if own:
        write_atomically(workspace / LOCAL / SITE_FILE, yaml.safe_dump(nested(own.items())).encode())
    return said


def _allows(allowed: list[Any], needed: str) -> bool:
    """As NVFlare reads the list: whole names, or what they begin with, up to a dot."""
    names = [entry for entry in allowed if isinstance(entry, str) and entry]
    return any(entry in ("*", needed) or needed.startswith(f"{entry.rstrip('.')}.") for entry in names)


def _moved(value: Any, place: str) -> Any:
    """A server's settings with its storage inside its own workspace."""
    if isinstance(value, dict):
        return {name: _moved(item, place) for name, item in value.items()}
    if isinstance(value, list):
        return [_moved(item, place) for item in value]
    return value.replace(_SHARED, place, 1) if isinstance(value, str) and value.startswith(_SHARED) else value


def _certificate(workspace: Path) -> tuple[str, bool, str, str]:
    """Whether the certificate of a site's kit is this site's, and valid."""
    from fs_fedmllm.hosts.nvflare.certificates import identity_of

    startup = workspace / "startup" / "fed_client.json"
    try:
        name = str(read_json(startup)["client"]["fqsn"])
        identity_of(workspace, 1, name, {name: [1]})
    except (OSError, ValueError, LookupError, TypeError) as error:
        return "certificate", False, f"{startup} does not name the site ({error})", "Provision this site anew."
    except FedMLLMError as error:
        return "certificate", False, str(error), "Unpack this site's own kit again, or have it provisioned anew."
    return "certificate", True, f"of {name}", ""


def examined(workspace: Path) -> Iterator[tuple[str, bool, str, str]]:
    """What is right and wrong with a site's workspace: subject, whether it is right, what was found, what to do."""
    remedy = f"fs-fedmllm nvflare site {shell_word(workspace)}"
    try:
        server, found = is_server(workspace), read_resources(workspace)
    except FedMLLMError as error:
        yield "NVFlare site", False, str(error), "Name the folder that nvflare provision made for this site."
        return
    allowed = found.get(ALLOW_LIST)
    needed = CONTROLLER if server else EXECUTOR
    fine = isinstance(allowed, list) and _allows(allowed, needed)
    says = f"{'lets' if fine else 'does not let'} {needed} in"
    yield ALLOW_LIST, fine, says, "" if fine else f"{remedy}; without it the whole job is refused"
    if not server:
        streams = found.get(STREAMING, True) is not False
        says = "on: the site's error log goes to the server" if streams else "off"
        yield "log streaming", not streams, says, remedy if streams else ""
    else:
        elsewhere = _moved(found, "") != found
        says = f"in {_SHARED}, which every user of this machine may write to" if elsewhere else "not in a shared place"
        yield "job store", not elsewhere, says, remedy if elsewhere else ""
    startup = workspace / "startup" / f"fed_{'server' if server else 'client'}.json"
    try:
        signed = read_json(startup).get(SIGNED, True) is not False
        says = "must be an admin's" if signed else "not asked for: whoever has the server may change a job"
        yield "job signatures", signed, says, "" if signed else f"Take {SIGNED} out of {startup}."
    except (OSError, ValueError, AttributeError) as error:
        yield "job signatures", False, f"{startup} cannot be read ({error})", "Provision this site anew."
    try:
        own = own_settings(workspace)
        says = ", ".join(f"{name} {value}" for name, value in own.items()) or "says nothing"
        yield f"{LOCAL}/{SITE_FILE}", True, says, ""
    except FedMLLMError as error:
        yield f"{LOCAL}/{SITE_FILE}", False, str(error), "Correct the file."
    if not server:
        yield _certificate(workspace)
    if last := last_told(workspace):
        wrong = str(last.get("error") or "")
        remedy = "Correct that, and submit the job again." if wrong else ""
        yield "last job", not wrong, wrong or "nothing went wrong here", remedy
    free = shutil.disk_usage(workspace).free
    yield "workspace", True, f"{free / 1e9:.1f} GB free", ""
