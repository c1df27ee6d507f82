"""``fs-fedmllm server``, ``client`` and ``status``: one site of a distributed run, and how a run stands."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fs_fedmllm.commands.config import add_client_cfg
from fs_fedmllm.commands.output import print_document
from fs_fedmllm.commands.tables import table
from fs_fedmllm.config.clients import site_client
from fs_fedmllm.data.client_names import called
from fs_fedmllm.errors import ConfigError, DataError
from fs_fedmllm.extras import require_extra
from fs_fedmllm.files.untrusted import read_mapping
from fs_fedmllm.shipped import find_config


def add(commands: Any) -> None:
    """Add the three commands to the command line's grammar."""
    for role, says in (
        ("server", "start the server of a distributed run"),
        ("client", "start a client of a distributed run"),
    ):
        site = commands.add_parser(role, help=says)
        site.add_argument("config", help="the run's .yaml, the same on every site")
        site.add_argument("overrides", nargs="*", help="key=value or key value, as for run")
        add_client_cfg(site)
        site.add_argument("--data", help="this site's folder, from data split --per-client-folders (data.root)")
        site.add_argument("--address", help="host:port of the server (fedmllm.network.address)")
        site.add_argument("--certificates", help="folder with this site's certificate (fedmllm.network.certificates)")
        if role == "client":
            site.add_argument("--id", type=int, help="client id, where the folder does not name one: the client "
                              "takes its share of the whole data set")  # fmt: skip
            site.add_argument("--own-rows", action="store_true", help="all training rows in --data are this client's "
                              "(fedmllm.network.own_rows)")  # fmt: skip
        site.set_defaults(function=_site, role=role)
    status = commands.add_parser("status", help="status of a distributed run: round, clients, bytes, last error")
    status.add_argument("folder", help="the run folder of the server or of a client")
    status.add_argument("--json", action="store_true", help="as JSON")
    status.set_defaults(function=_status)


def _site(args: argparse.Namespace) -> int:
    started = time.perf_counter()
    from fs_fedmllm import config as schema

    path = find_config(args.config)
    if args.data and not Path(args.data).is_dir():
        raise ConfigError(f"--data {args.data}: there is no such folder.")
    words = [*args.overrides, "federate.mode", "distributed"]
    for key, value in (
        ("data.root", args.data),
        ("fedmllm.network.address", args.address),
        ("fedmllm.network.certificates", args.certificates),
    ):
        words += [key, value] if value else []
    if getattr(args, "own_rows", False):
        words += ["fedmllm.network.own_rows", "True"]
    raw = schema.given_mapping(path, words, args.client_cfg)
    config = schema.from_mapping(raw, str(path))
    client = _client(args, raw, path) if args.role == "client" else 0
    require_extra("distributed", f"fs-fedmllm {args.role}")
    from fs_fedmllm.distributed.run_site import run_client, run_server

    if args.role == "client":
        print(run_client(config, client, label=path.stem), flush=True)
        return 0
    from fs_fedmllm.distributed.roles import site_config
    from fs_fedmllm.runs.progress import ConsoleProgress

    config = site_config(config)
    progress = ConsoleProgress(config)
    try:
        said = run_server(config, listener=progress, started=started, label=path.stem)
    finally:
        progress.close()
    print(said, flush=True)
    return 0


def _client(args: argparse.Namespace, raw: Mapping[str, Any], path: Path) -> int:
    """The client that a site is by ``--id`` or ``distribute.data_idx``; 0 where its folder says so."""
    if args.id is not None:
        if args.id < 1:
            raise ConfigError(f"--id is {args.id}; client ids begin with 1.")
        return int(args.id)
    return site_client((raw.get("distribute") or {}).get("data_idx", -1), f"{path}: ")


def _status(args: argparse.Namespace) -> int:
    remedy = "Name the run folder of a distributed run's server or client."
    place = Path(args.folder) / "status.json"
    status = read_mapping(place, DataError, remedy)
    if lacking := [name for name in ("site", "doing", "round", "rounds", "updated") if name not in status]:
        raise DataError(f"{place} has no {lacking[0]}, as every status of a run has. {remedy}")
    print_document(json.dumps(status, indent=2) if args.json else status_table(status))
    return 0


def status_table(status: dict[str, Any]) -> str:
    """A status as text."""
    lines = [
        f"{status['site']}: {status['doing']}, round {status['round']} of {status['rounds']} done"
        f" (as of {status['updated']})"
    ]
    if "clients" in status:
        rows = [
            [called(c["client"], {c["client"]: c.get("name") or ""}), c["state"],
             c["seen"] or "", "" if c["rows"] is None else c["rows"],
             "" if c["delivered"] in (None, -1) else c["delivered"], c["why"]]
            for c in status["clients"]
        ]  # fmt: skip
        lines += ["", table(["client", "state", "last seen (UTC)", "rows", "last answer", "why"], rows), ""]
        if status["waiting_for"]:
            lines.append(f"waiting for: {', '.join(map(str, status['waiting_for']))}")
        lines.append(f"bytes received {status['bytes_received']:,}, sent {status['bytes_sent']:,}")
        lines.append(f"updates refused: {status['refused']}")
        if spent := status.get("privacy"):
            from fs_fedmllm.privacy.accountant import hollow

            lines.append(
                f"privacy: epsilon {spent['epsilon']:.4g} at delta {spent['delta']:.3g} spent, in "
                f"{spent['releases']} releases{hollow(spent['epsilon'], spent['delta'])}"
            )
    lines.append(f"last error: {status['last_error'] or 'none'}")
    return "\n".join(lines)
