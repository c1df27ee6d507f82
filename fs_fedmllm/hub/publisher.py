"""Pushing: one commit per release, tried again where that can help, beside the training and never in its way."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fs_fedmllm.config import HubConfig
from fs_fedmllm.errors import HubError
from fs_fedmllm.hub.fetch import explain, make_api, quiet, status_of

logger = logging.getLogger(__name__)

#: Answers that trying again does not change.
PERMANENT = (400, 401, 402, 403, 404, 410, 413, 422)
#: Files of ours that a release without them takes away.
OURS = ("checkpoint/", "metrics.jsonl")


class PushRefused(HubError):
    """A push that no further attempt will get through: rights, names, a public repository."""


@dataclass(frozen=True)
class Release:
    """What one commit brings.

    Attributes:
        round: rounds done.
        message: the commit's.
        files: path in the repository -> content.
    """

    round: int
    message: str
    files: Mapping[str, bytes]


def push_once(api: Any, config: HubConfig, release: Release) -> str:
    """Make the repository if it is not there, and commit a release on top of what it has.

    Returns:
        The commit.

    Raises:
        PushRefused: the repository is public and the configuration says private.
        Exception: what the hub's client raises.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    api.create_repo(config.repo, private=config.private, repo_type="model", exist_ok=True)
    if config.revision != "main":
        api.create_branch(config.repo, branch=config.revision, exist_ok=True)
    head = api.model_info(config.repo, revision=config.revision)
    if config.private and head.private is False:
        raise PushRefused(
            f"{config.repo} is public, and fedmllm.hub.private is True: nothing was pushed. Make it private on the "
            "hub, or set fedmllm.hub.private: False if everybody may see the adapter."
        )
    there = [item.rfilename for item in head.siblings or []]
    operations: list[Any] = [
        CommitOperationDelete(path_in_repo=name)
        for name in there
        if name.startswith(OURS) and name not in release.files
    ]
    operations += [CommitOperationAdd(path_in_repo=name, path_or_fileobj=data) for name, data in release.files.items()]
    # On top of the head that was looked at: if somebody else commits in between, the hub refuses and we look again.
    done = api.create_commit(
        config.repo, operations, commit_message=release.message, revision=config.revision, parent_commit=head.sha
    )
    return str(done.oid)


def push(config: HubConfig, release: Release, *, api: Any = None, sleep: Callable[[float], None] = time.sleep) -> str:
    """Push, and try again after what may pass.

    Args:
        config: ``fedmllm.hub``.
        release: what to push.
        api: the hub's client; None makes one.
        sleep: waits between attempts.

    Returns:
        The commit.

    Raises:
        HubError: it cannot be pushed; the repository is as it was before.
        PushRefused: and trying again will not help.
    """
    reason = ""
    for attempt in range(config.attempts):
        if attempt:
            sleep(min(60.0, 2.0**attempt))
        try:
            with quiet():
                return push_once(api or make_api(), config, release)
        except HubError:
            raise
        except Exception as error:
            reason, status = explain(error), status_of(error)
            wrong = isinstance(error, ValueError) and status is None  # a name or a card that the hub refuses
            if status in PERMANENT or wrong:
                hint = " Log in with 'hf auth login'." if status in (401, 403) else ""
                raise PushRefused(f"{config.repo} refused the push: {reason}.{hint}") from error
            logger.info("Push of round %d to %s, attempt %d: %s", release.round, config.repo, attempt + 1, reason)
    raise HubError(f"{config.repo} could not be pushed to in {config.attempts} attempts: {reason}.")


class Publisher:
    """Pushes releases one after the other in a thread; what fails is a warning.

    While a push hangs, newer releases wait; after a failure only the newest of them is tried, and after a refusal that
    no attempt will change (rights, names) none.

    Attributes:
        published: round and commit of what was pushed.
        failed: round and reason of what was not.

    Args:
        config: ``fedmllm.hub``.
        push: pushes a release and returns the commit.
    """

    def __init__(self, config: HubConfig, push: Callable[[HubConfig, Release], str] = push):
        self.config = config
        self.published: list[dict[str, Any]] = []
        self.failed: list[dict[str, Any]] = []
        self._push = push
        self._waiting: deque[Release] = deque()
        self._changed = threading.Condition()
        self._closing = self._refused = False
        self._thread: threading.Thread | None = None

    def offer(self, release: Release) -> None:
        """Hand over a release; returns at once."""
        with self._changed:
            if self._refused:
                return
            self._waiting.append(release)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="hub-publisher", daemon=True)
                self._thread.start()
            self._changed.notify()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing)
                if not self._waiting:
                    return
                release = self._waiting.popleft()
            try:
                commit = self._push(self.config, release)
            except Exception as error:  # never the training's problem
                self._fail(release, error)
            else:
                self.published.append({"round": release.round, "commit": commit})
                logger.info("Pushed round %d to %s: %s", release.round, self.config.repo, commit)

    def _fail(self, release: Release, error: Exception) -> None:
        final = isinstance(error, PushRefused)
        reason = str(error) if isinstance(error, HubError) else explain(error)
        self.failed.append({"round": release.round, "reason": reason})
        logger.warning(
            "HubPushFailed: round %d was not pushed to %s: %s Training continues%s; the adapter is in the run folder, "
            "and 'fs-fedmllm push RUN_FOLDER %s' pushes it later.",
            release.round,
            self.config.repo,
            reason,
            ", without further pushes" if final else "",
            self.config.repo,
        )
        with self._changed:
            self._refused = self._refused or final
            newest = [] if final or not self._waiting else [self._waiting[-1]]
            self._waiting = deque(newest)

    def close(self) -> None:
        """Wait until everything that was handed over is pushed or has failed."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
