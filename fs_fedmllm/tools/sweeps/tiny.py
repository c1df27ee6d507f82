"""A table tried out in minutes on a CPU: the embedded model and data in place of the real ones, a few steps each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fs_fedmllm.config import apply_overrides
from fs_fedmllm.config.overrides import TINY

#: An embedded data set of the same kind for each that has to be brought along.
STAND_INS = {
    "hateful_memes": "digits_match",
    "crisismmd": "digits_triage",
    "real_triage": "digits_triage",
    "medical": "digits_panel",
    "vqa_rad": "digits_panel",
    "slake": "digits_panel",
}
_SHORT = (
    *("federate.total_round_num", "2", "train.local_update_steps", "2", "train.batch_or_epoch", "batch"),
    *("eval.freq", "2", "fedmllm.eval.limit", "24", "fedmllm.eval.max_new_tokens", "4", "fedmllm.threads", "1"),
)


def as_tiny(raw: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration file's mapping with the embedded model and data, and two rounds of two steps; one stays one."""
    made = apply_overrides(dict(raw), [*TINY, *_SHORT])
    stand_in = STAND_INS.get(str(made.get("data", {}).get("type", "")))
    if stand_in is not None:
        data = {name: value for name, value in made["data"].items() if name not in ("type", "root")}
        args = dict((data.get("splitter_args") or [{}])[0])
        args.pop("keep_together", None)  # a key of the real rows
        if stand_in == "digits_panel":  # it has no texts that a scenario could deal or take away
            data["splitter"], args = "fedmllm_aligned", {"alpha": 0.5, "by": "kind"}
        made["data"] = {**data, "type": stand_in, "splitter_args": [args]}
        made["fedmllm"] = {**made.get("fedmllm", {}), "data": {}}
    sets = (made.get("fedmllm") or {}).get("test_sets") or {}
    made["fedmllm"] = {**made.get("fedmllm", {}), "test_sets": {name: _tiny_set(own) for name, own in sets.items()}}
    one_round = (raw.get("federate") or {}).get("total_round_num") == 1  # a method may need that
    if one_round or made.get("federate", {}).get("method") == "local":
        made["federate"] = {**made["federate"], "total_round_num": 1}
    made["fedmllm"] = {**made.get("fedmllm", {}), "template": ""}
    return made


def _tiny_set(given: Any) -> Any:
    """A further test set with an embedded data set in its place, where there is one of its kind."""
    stand_in = STAND_INS.get(str(given.get("type", ""))) if isinstance(given, Mapping) else None
    return given if stand_in is None else {"type": stand_in}
