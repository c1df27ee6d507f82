"""What an adapter's folder holds beside PEFT's two files: how it was trained, so that it can be used by itself.

``fedmllm.json`` has the model's options (with the public id of the base and a fingerprint of its weights), the prompt
template and its variant. It holds no path of the machine that wrote it.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fs_fedmllm.config import Config, ModelOptions
from fs_fedmllm.data.template import Template
from fs_fedmllm.data.template_file import build_template
from fs_fedmllm.errors import ModelError
from fs_fedmllm.files.untrusted import read_json
from fs_fedmllm.models.export import base_name
from fs_fedmllm.models.fingerprint import base_fingerprint
from fs_fedmllm.version import VERSION as PACKAGE_VERSION

NAME = "fedmllm.json"
_FINGERPRINT = re.compile(r"([0-9a-f]{64})?")
VERSION = 1


@dataclass(frozen=True)
class Description:
    """How an adapter was trained.

    Attributes:
        base: public id of the base, or its bare name.
        model: ``model.fedmllm`` of the run, without its path.
        template: the prompts.
        prompt: ``original`` or ``augmented``.
        max_new_tokens: longest generated answer.
        max_length: ``fedmllm.train.max_length``.
        combine: ``fedmllm.predict.combine``.
        base_sha256: fingerprint of the base's weights; empty where none was written.
    """

    base: str
    model: Mapping[str, Any]
    template: Template
    prompt: str
    max_new_tokens: int
    max_length: int = -1
    combine: str = "joint"
    base_sha256: str = ""


def template_mapping(template: Template) -> dict[str, Any]:
    """A template as its YAML file would give it."""
    choice = template.task == "choice"
    cases = {
        variant: {
            name: {"basis": case.basis, "question": case.question} if choice else case.question
            for name, case in template.cases[variant].items()
        }
        for variant in template.cases
    }
    return {
        "name": template.name,
        "task": template.task,
        "metric": template.metric,
        "options": list(template.options),
        "positive": template.positive,
        "instruction": template.instruction,
        "closing": template.closing,
        **({"question": template.question} if template.question else {}),
        **({} if template.listed else {"listed": False}),
        **({} if template.lettered else {"lettered": False}),
        **cases,
    }


def describe(config: Config, template: Template) -> bytes:
    """``fedmllm.json`` of a run's adapters."""
    model = dataclasses.asdict(config.model.fedmllm)
    base = base_name(model.pop("path"), config.fedmllm.hub.base_model)
    value = {
        "version": VERSION,
        "written_by": f"fs-fedmllm {PACKAGE_VERSION}",
        "base": base,
        "base_sha256": base_fingerprint(config.model.fedmllm),
        "model": model,
        "template": template_mapping(template),
        "prompt": config.fedmllm.prompt,
        "max_new_tokens": config.fedmllm.eval.max_new_tokens,
        "max_length": config.fedmllm.train.max_length,
        "combine": config.fedmllm.predict.combine,
    }
    return (json.dumps(value, indent=2) + "\n").encode()


def read_description(folder: Path) -> Description | None:
    """Read ``fedmllm.json``; None if the folder has none (an adapter of somebody else's).

    Raises:
        ModelError: it is damaged, or of an unknown version.
    """
    file = folder / NAME
    if not file.is_file():
        return None
    try:
        raw = read_json(file)
        if raw["version"] != VERSION:
            raise ModelError(f"{file} has version {raw['version']}; this release reads version {VERSION}.")
        template = build_template(raw["template"], f"{file}: template", str(raw["template"].get("name", "template")))
        model = raw["model"]
        if not isinstance(model, dict):
            raise ModelError(f"{file}: model must be a mapping.")
        lengths = int(raw["max_new_tokens"]), int(raw.get("max_length", -1))
        combine = str(raw.get("combine", "joint"))
        if combine not in ("joint", "product"):
            raise ModelError(f"{file}: combine is {combine[:20]!r}; it must be joint or product.")
        fingerprint = raw.get("base_sha256") or ""
        if not isinstance(fingerprint, str) or not _FINGERPRINT.fullmatch(fingerprint):
            raise ModelError(
                f"{file}: base_sha256 is {str(fingerprint)[:80]!r}; it must be 64 hexadecimal digits, or empty."
            )
        return Description(str(raw["base"]), model, template, str(raw["prompt"]), *lengths, combine, fingerprint)
    except (KeyError, ValueError, TypeError, AttributeError, OverflowError, OSError) as error:
        raise ModelError(f"{file} cannot be read: {type(error).__name__}: {error}.") from error


def other_base(folder: Path, config: Mapping[str, Any], options: ModelOptions, public: str = "") -> str:
    """What to say of an adapter that is put on a base which is not its own.

    Weights decide where their fingerprint was written; names do elsewhere, by their last part, since a base may lie in
    any folder. A copy in another precision is another file too, so this is said and not refused.

    Args:
        folder: the adapter's.
        config: its ``adapter_config.json``.
        options: of the model that it is put on.
        public: public id of that, where it is known (``fedmllm.hub.base_model``).

    Returns:
        A sentence or two; empty where it is the adapter's own base, or nothing tells.

    Raises:
        ModelError: see :func:`read_description`.
    """
    description = read_description(folder)
    stated = description.base_sha256 if description is not None else ""
    found = base_fingerprint(options) if stated else ""
    remedy = "Give it its own base (--base, or model.fedmllm.path of a run), or expect answers that mean nothing."
    if description is not None and found and stated != found:
        return (
            f"{folder / NAME}: the adapter was trained on {description.base!r} with other weights than those of "
            f"{options.path!r} (fingerprint {stated[:12]}, here {found[:12]}). {remedy}"
        )
    here = [base_name(options.path, public), base_name(options.path)]
    named = {"adapter_config.json": config.get("base_model_name_or_path")}
    if description is not None:
        named |= {NAME: description.base}
        here += [description.base] if found else []
    for file, name in named.items():
        if isinstance(name, str) and name and not any(same_name(name, base) for base in here):
            return f"{folder / file}: the adapter's base is {name!r}, and it is put on {options.path!r}. {remedy}"
    return ""


def same_name(one: str, two: str) -> bool:
    """Whether two names may be of one base: by their last part, since a base may lie in any folder."""
    return _last(base_name(one)) == _last(base_name(two))


def _last(name: str) -> str:
    return name.replace("\\", "/").rstrip("/").rpartition("/")[2].casefold()
