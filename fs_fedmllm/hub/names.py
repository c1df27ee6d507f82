"""Names on a hub: references to a revision, and the public id of a base model."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from fs_fedmllm.config.hub import is_repo
from fs_fedmllm.errors import HubError

PREFIX = "hub:"
_REVISION = re.compile(r"[\w][\w./-]{0,199}")


@dataclass(frozen=True)
class Reference:
    """A revision of a repository.

    Attributes:
        repo: ``owner/name``.
        revision: branch, tag or commit; None is the default branch.
    """

    repo: str
    revision: str | None

    def __str__(self) -> str:
        return self.repo + (f"@{self.revision}" if self.revision else "")


def is_public_id(name: str) -> bool:
    """Whether a name is ``owner/name`` and no folder here."""
    return is_repo(name) and not Path(name).exists()


def parse_reference(text: str, key: str) -> Reference:
    """Read ``owner/name`` or ``owner/name@revision``, with or without ``hub:`` in front.

    Args:
        text: the reference.
        key: what it was given as, for the message.

    Raises:
        HubError: it is not of that form.
    """
    repo, _, revision = text.removeprefix(PREFIX).partition("@")
    bad_revision = bool(revision) and (_REVISION.fullmatch(revision) is None or ".." in revision)
    if not is_repo(repo) or bad_revision or text.endswith("@"):
        raise HubError(f"{key} is {text!r}; write owner/name or owner/name@revision.")
    return Reference(repo, revision or None)
