"""What a site's ``local/resources.json`` must say before a job of ours may run there."""

from __future__ import annotations

from typing import Any

#: Every component of a job's that is ours begins with this; it goes into the sites' ``class_allow_list``.
ALLOWED = "fs_fedmllm."


def resources() -> dict[str, Any]:
    """The part of ``resources.json`` that is about us: our classes may be built, and no log goes to the server."""
    from nvflare.app_common.default_component_policy import DEFAULT_CLASS_ALLOW_LIST

    return {"class_allow_list": [*DEFAULT_CLASS_ALLOW_LIST, ALLOWED], "allow_log_streaming": False}
