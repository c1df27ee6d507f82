"""What a run's state belongs to beside its configuration: the content of what that names by paths only."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from fs_fedmllm.config import Config, ModelOptions, settings
from fs_fedmllm.data.template import Template, template_content
from fs_fedmllm.models.fingerprint import base_fingerprint, processor_files
from fs_fedmllm.rounds.replay import recorded_participants
from fs_fedmllm.scenarios.federated_data import FederatedData

T = TypeVar("T")


def belongings(config: Config, data: FederatedData) -> dict[str, Any]:
    """What a checkpoint says that it belongs to.

    Returns:
        Digests of the prompt template, the rows and images, the base's weights and its processor's files (empty where
        there are none on this machine yet) and the participants that are replayed; and the settings, so that what
        differs can be named.
    """
    replayed = recorded_participants(config)
    return {
        "template": _templates(data),
        "data": data.content_sha256,
        "base": base_of(config),
        "processor": _read(processor_files, config, dict[str, str]()),
        "replay": hashlib.sha256(json.dumps(replayed).encode()).hexdigest() if replayed else "",
        # A checkpoint may be published; this machine's folders are nobody's business.
        "settings": {name: _without_paths(value) for name, value in settings(config).items()},
    }


def _without_paths(value: Any) -> Any:
    text = json.dumps(value, sort_keys=True)
    return f"path {hashlib.sha256(text.encode()).hexdigest()[:8]}" if "/" in text or "\\" in text else value


def _templates(data: FederatedData) -> str:
    own = template_sha256(data.template)
    if not data.test_sets:
        return own
    further = {name: template_sha256(test_set.template) for name, test_set in data.test_sets.items()}
    return hashlib.sha256(json.dumps([own, further], sort_keys=True).encode()).hexdigest()


def template_sha256(template: Template) -> str:
    """sha256 of what a template says; its name and its place do not count."""
    return hashlib.sha256(json.dumps(template_content(template), sort_keys=True, default=str).encode()).hexdigest()


def base_of(config: Config) -> str:
    """Fingerprint of the base's weights; empty where they cannot be read, which loading them says better."""
    return _read(base_fingerprint, config, "")


def _read(look: Callable[[ModelOptions], T], config: Config, nothing: T) -> T:
    try:
        return look(config.model.fedmllm)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return nothing


#: Part -> what to say if it is another one.
OTHER = {
    "template": "another prompt template (its content differs; fedmllm.template)",
    "data": "other rows or images (their content differs; data.root)",
    "base": "another base (the content of its weights differs; model.fedmllm.path)",
    "processor": "another chat template, tokenizer or processor (its files differ; model.fedmllm.path)",
    "replay": "other recorded participants (fedmllm.replay)",
}


def other_parts(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """Which parts differ, in words; a part that one side does not know is not compared."""
    return [says for part, says in OTHER.items() if _differ(there.get(part), here.get(part))]


def _differ(there: Any, here: Any) -> bool:
    if isinstance(there, Mapping) and isinstance(here, Mapping):  # files that one side has not got (yet) say nothing
        return any(there[name] != here[name] for name in there.keys() & here.keys())
    return bool(there and here and there != here)
