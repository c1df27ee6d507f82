"""``fs-fedmllm nvflare``: a run as a job of NVIDIA FLARE, from the site that is made ready to the job's end."""

from __future__ import annotations

import argparse
import functools
from pathlib import Path
from typing import Any

from fs_fedmllm.commands.config import add_client_cfg
from fs_fedmllm.commands.output import print_document
from fs_fedmllm.errors import ConfigError, printable
from fs_fedmllm.shipped import find_config


def add(commands: Any) -> None:
    """Add ``nvflare`` and its verbs to the command line's grammar."""
    nvflare = commands.add_parser("nvflare", help="runs as jobs of NVIDIA FLARE: job, site, submit, status")
    verbs = nvflare.add_subparsers(dest="verb", required=True, metavar="VERB")
    job = verbs.add_parser("job", help="write a configuration as a job's folder; there is no code in it")
    job.add_argument("config", help="the run's .yaml")
    job.add_argument("overrides", nargs="*", help="key value pairs, as for run")
    add_client_cfg(job)
    job.add_argument("--out", required=True, help="the folder to make; its name is the job's")
    job.add_argument("--sites", help="names of the sites as their certificates have them, with commas; the first has "
                     "client 1, and so on in turn (default site-1,site-2...)")  # fmt: skip
    job.set_defaults(function=_job)
    site = verbs.add_parser("site", help="let our jobs run in a workspace of nvflare provision, and say where data is")
    site.add_argument("workspace", help="the folder with startup and local")
    site.add_argument("--data", default="", help="this site's folder of data (data.root)")
    site.add_argument("--own-rows", action="store_true", help="all training rows in --data are this site's client's")
    site.set_defaults(function=_site)
    submit = verbs.add_parser("submit", help="submit a job")
    submit.add_argument("job", help="folder that nvflare job wrote")
    submit.add_argument("--admin", required=True, help="an admin's startup kit")
    submit.add_argument("--follow", action="store_true", help="follow it to its end, and submit it again whenever "
                        "it breaks off: it continues from its last round")  # fmt: skip
    submit.add_argument("--wait", type=float, metavar="SECONDS", help="with --follow: how long the job may wait for "
                        "sites that are not connected, until it has run once "
                        "(default 120; 0: as long as it takes)")  # fmt: skip
    submit.set_defaults(function=_submit)
    status = verbs.add_parser("status", help="status of a job")
    status.add_argument("job_id", help="as submit printed it")
    status.add_argument("--admin", required=True, help="an admin's startup kit")
    status.add_argument("--json", action="store_true", help="as JSON")
    status.set_defaults(function=_status)


def _job(args: argparse.Namespace) -> int:
    from fs_fedmllm import config as schema
    from fs_fedmllm.config.host_reading import put
    from fs_fedmllm.hosts.nvflare.job import write_job
    from fs_fedmllm.hosts.nvflare.settings import LOCAL, SITE_FILE, check_job, without_reserved
    from fs_fedmllm.hosts.nvflare.sites import dealt

    path = find_config(args.config)
    raw = schema.given_mapping(path, args.overrides, args.client_cfg)
    put(raw, "federate.mode", "distributed")
    config = schema.from_mapping(raw, str(path))
    raw, left = without_reserved(raw)
    check_job(raw, str(path))
    clients = config.federate.client_num
    names = args.sites.split(",") if args.sites else [f"site-{client}" for client in range(1, clients + 1)]
    sites = dealt(names, clients)
    folder = Path(args.out)
    if folder.exists():
        raise ConfigError(f"--out {folder} is there already; name a new folder.")
    write_job(folder, config, raw, sites, path.stem)
    for name, own in sites.items():
        print(f"{name}: {'client' if len(own) == 1 else 'clients'} {', '.join(map(str, own))}")
    if left:
        print(f"not in the job, for each site has its own ({LOCAL}/{SITE_FILE}): {', '.join(left)}")
    print(f"job: {folder}")
    return 0


def _site(args: argparse.Namespace) -> int:
    from fs_fedmllm.hosts.nvflare.policy import make_ready

    for said in make_ready(Path(args.workspace), args.data, own_rows=args.own_rows):
        print(said)
    print(f"{args.workspace} is ready.")
    return 0


def _submit(args: argparse.Namespace) -> int:
    from fs_fedmllm.hosts.nvflare import admin
    from fs_fedmllm.hosts.nvflare.follow import WAIT, follow

    if args.wait is not None and not args.follow:
        raise ConfigError("--wait says how long --follow lets the job wait for its sites; add --follow.")
    wait = WAIT if args.wait is None else args.wait
    if not 0 <= wait < float("inf"):
        raise ConfigError(f"--wait {wait:g} must be a number of seconds, or 0 for as long as it takes.")
    job = Path(args.job)
    if not (job / "meta.json").is_file():
        raise ConfigError(f"{job} is not a job: it has no meta.json. Make one with fs-fedmllm nvflare job.")
    if args.follow:
        connect = functools.partial(admin.session, Path(args.admin))
        print(follow(connect, job, lambda line: print(line, flush=True), wait=wait))
        return 0
    with admin.session(Path(args.admin)) as opened:
        print(admin.submit(opened, job))
    return 0


def _status(args: argparse.Namespace) -> int:
    from fs_fedmllm.commands.sites import status_table
    from fs_fedmllm.hosts.nvflare import admin
    from fs_fedmllm.hosts.nvflare.why import reason

    with admin.session(Path(args.admin)) as opened:
        word, ours = admin.standing(opened, args.job_id)
        found = reason(opened, args.job_id, word)
    why = found.says if found else ""
    if args.json:
        print_document(admin.as_json(word, ours, why))
        return 0
    print(f"NVFlare: {word}")
    if why:
        print(f"why: {printable(why)}")
    if ours:
        print(status_table(ours))
    return 0
