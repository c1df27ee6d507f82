"""What a run can know of the hub before it loads a model: whether it answers, knows the token, and takes a push.

While a run goes on a hub that fails is a warning. Before its first step it is an error: nobody wants to learn after
forty rounds that the token was a reader's.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from fs_fedmllm.config import Config
from fs_fedmllm.errors import HubError
from fs_fedmllm.hub.fetch import PATIENCE, adapter_folder, checkpoint_names, explain, make_api, quiet, status_of
from fs_fedmllm.hub.names import PREFIX, parse_reference
from fs_fedmllm.hub.release import require_public_base
from fs_fedmllm.models.export import base_name, check_readable

logger = logging.getLogger(__name__)

_LATER = "Or leave fedmllm.hub.repo empty, and publish afterwards with fs-fedmllm push."


def check_hub(config: Config, folder: Path) -> None:
    """Ask the hub, if the run is to push, to go on from a push, or to start from an adapter there.

    Args:
        config: of the run.
        folder: of the run; one that holds a checkpoint needs no other to start from.

    Raises:
        HubError: it does not answer, does not know the token, or would refuse; or what is to be read is not there.
        ModelError: nor is an adapter on this machine.
    """
    hub, start = config.fedmllm.hub, config.federate.restore_from
    if hub.repo:
        parse_reference(hub.repo, "fedmllm.hub.repo")
        require_public_base(base_name(config.model.fedmllm.path, hub.base_model))
    if not (folder / "checkpoint" / "state.json").is_file():
        if hub.resume_from:
            checkpoint_names(hub.resume_from)
        elif start.startswith(PREFIX):
            adapter_folder(start, "federate.restore_from")
        elif start:
            check_readable(Path(start))
    if hub.repo:
        with quiet():
            _check_push(make_api(), hub.repo, hub.private)


def _check_push(api: Any, repo: str, private: bool) -> None:
    there = _ask(repo, lambda: api.model_info(repo, timeout=PATIENCE), or_none=(401, 404))
    if there is not None and private and there.private is False:
        raise HubError(
            f"fedmllm.hub.repo: {repo} is public, and fedmllm.hub.private is True. Make it private on the hub, or set "
            "fedmllm.hub.private: False if everybody may see the adapter."
        )
    who = _ask(repo, api.whoami, or_none=(404,))
    if who is None:  # a hub of one's own need not answer that question
        logger.info("The hub does not tell whose token this is; whether it may push will show at the first push.")
        return
    token = (who.get("auth") or {}).get("accessToken") or {}
    if token.get("role") == "read":
        raise HubError(
            f"fedmllm.hub.repo: the token of {who.get('name')} may read only, and cannot push to {repo}. Log in with "
            f"one that may write ('hf auth login'). {_LATER}"
        )
    if there is not None:
        _ask(repo, lambda: api.auth_check(repo, write=True), or_none=(404,))
        return
    owner = repo.partition("/")[0]
    own = [who.get("name"), *(org.get("name") for org in who.get("orgs") or [])]
    if owner not in own:
        raise HubError(
            f"fedmllm.hub.repo: {repo} is not there, or not for this token to see, and {who.get('name')} cannot make "
            f"it: the token's own names are {', '.join(map(str, own))}. Correct the name, or log in as {owner} "
            f"('hf auth login'). {_LATER}"
        )


def _ask(repo: str, question: Any, or_none: tuple[int, ...]) -> Any:
    """The hub's answer; None for the statuses that say nothing here."""
    from huggingface_hub.errors import LocalTokenNotFoundError

    try:
        return question()
    except LocalTokenNotFoundError as error:
        raise HubError(
            f"fedmllm.hub.repo is {repo}, and there is no token to push with: log in with 'hf auth login', or set "
            f"HF_TOKEN. {_LATER}"
        ) from error
    except Exception as error:  # whatever the network did: the user needs one sentence
        status = status_of(error)
        if status in or_none:
            return None
        problem = "would refuse the push" if status in (401, 403) else "does not answer"
        hint = " Log in with 'hf auth login' as somebody who may write there." if status in (401, 403) else ""
        raise HubError(
            f"fedmllm.hub.repo: the hub {problem} ({repo}): {explain(error).rstrip('.')}.{hint} {_LATER}"
        ) from error
