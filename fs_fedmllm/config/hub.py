"""``fedmllm.hub``: where a run publishes its adapter, and what it goes on from."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from fs_fedmllm.keys import ONE_OR_MORE, key

_REPO = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")


@dataclass(frozen=True)
class HubConfig:
    """``fedmllm.hub``. There is no key for a token: it comes from huggingface_hub's own store."""

    repo: str = key("", "Repository that the server pushes to, as owner/name; empty pushes nothing.")
    revision: str = key("main", "Branch that is pushed to; made if it is not there.")
    push: str = key(
        "end",
        "When to push: once at the end (the best adapter), whenever an evaluation is the best so far, or after every "
        "n-th round (the last adapter).",
        choices=("end", "best", "every"),
    )
    average: bool = key(
        False, "Let the closing push be the mean of the last rounds' adapters; needs fedmllm.average_last."
    )
    every: int = key(10, "n, where push is every.", unit="rounds", valid=ONE_OR_MORE)
    private: bool = key(True, "Make the repository private, and refuse to push to a public one.")
    checkpoint: bool = key(
        False, "Push the run's state too, so that another machine can resume from it; the last push removes it."
    )
    resume_from: str = key(
        "", "A pushed revision with a checkpoint, owner/name@revision: the run resumes there, to the same adapter."
    )
    attempts: int = key(4, "Times a push is tried before a warning; training continues.", valid=ONE_OR_MORE)
    base_model: str = key("", "Public id of the base, owner/name, where model.fedmllm.path is a folder.")
    licence: str = key("", "Licence of the adapter, for the model card, as the hub writes it (apache-2.0).")


def is_repo(name: str) -> bool:
    """Whether a name is ``owner/name``, as a hub takes it."""
    return _REPO.fullmatch(name) is not None and ".." not in name


def hub_faults(config: Any) -> Iterator[str]:
    """A message, naming the keys, for every setting of ``fedmllm.hub`` that cannot mean anything in this run."""
    hub = config.fedmllm.hub
    if hub.repo and not is_repo(hub.repo):
        yield f"fedmllm.hub.repo is {hub.repo!r}; write owner/name."
    if hub.repo and not config.method.has_global:
        yield "fedmllm.hub.repo is set, but federate.method local has no global adapter to push. Leave it empty."
    if hub.average and not config.fedmllm.average_last:
        yield "fedmllm.hub.average is True, and fedmllm.average_last is 0: there is no mean to push. Set it above 1."
    if hub.average and not hub.repo:
        yield "fedmllm.hub.average is True without fedmllm.hub.repo; it has no effect. Name a repository."
    if hub.resume_from and config.federate.restore_from:
        yield (
            "fedmllm.hub.resume_from and federate.restore_from are both set: the first goes on with a run, the second "
            "starts one. Leave one of them empty."
        )
    if hub.checkpoint and config.fedmllm.privacy.dp.enabled:
        yield (
            "fedmllm.hub.checkpoint would publish what clients keep between rounds, which differential privacy does "
            "not cover. Set it to False, or fedmllm.privacy.dp.clip_norm to 0."
        )
