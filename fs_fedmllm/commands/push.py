"""``fs-fedmllm push``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from fs_fedmllm.commands.merge import add_which
from fs_fedmllm.errors import ConfigError


def add(commands: Any) -> None:
    """Add ``push`` to the command line's grammar."""
    push = commands.add_parser("push", help="publish a finished run's adapter on a hub, with a model card")
    push.add_argument("folder", help="the run folder, or one of its adapters")
    push.add_argument("repo", help="owner/name; created if it does not exist")
    add_which(push)
    push.add_argument("--revision", default="main", help="branch")
    push.add_argument("--public", action="store_true", help="let everybody see it; private otherwise")
    push.add_argument("--base-model", default="", help="public id of the base, where the run had a folder")
    push.add_argument("--licence", default="", help="licence of the adapter, as the hub writes it")
    push.add_argument("--dry-run", metavar="DIR", help="write the files into a folder and push nothing")
    push.set_defaults(function=_push)


def _which(place: Path, given: str | None) -> tuple[Path, str]:
    """The run folder and which of its adapters; naming one of them is a choice.

    Raises:
        ConfigError: the place and ``--which`` choose differently.
    """
    from fs_fedmllm.hub.fetch import FOLDERS
    from fs_fedmllm.runs.listing import run_folder_of

    folder = run_folder_of(place)
    inside = place.absolute().relative_to(folder.absolute()).parts[:1] if folder != place else ()
    named = {folder: which for which, folder in FOLDERS.items()}.get(inside[0], "") if inside else ""
    if named and given and named != given:
        raise ConfigError(f"--which {given}: {place} is the {named} round's adapter. Name the run folder {folder}.")
    return folder, given or named or "best"


def _push(args: argparse.Namespace) -> int:
    from fs_fedmllm.config import HubConfig
    from fs_fedmllm.hub.names import parse_reference
    from fs_fedmllm.hub.publisher import push
    from fs_fedmllm.hub.release import release_of_folder

    repo = parse_reference(args.repo, "the repository").repo
    folder, which = _which(Path(args.folder), args.which)
    release = release_of_folder(folder, repo, which=which, base_model=args.base_model, licence=args.licence)
    if args.dry_run:
        from fs_fedmllm.files.atomic import write_atomically

        for name, data in release.files.items():
            write_atomically(Path(args.dry_run) / name, data)
        print(f"{len(release.files)} files in {args.dry_run}; nothing was pushed.")
        return 0
    commit = push(HubConfig(repo=repo, revision=args.revision, private=not args.public), release)
    print(f"{repo}: {release.message} is commit {commit}")
    return 0
