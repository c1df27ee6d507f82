"""The three fidelity profiles: one table of named switches.

``fixed`` (default) is correct and documented, ``paper`` is what the text of arXiv 2411.14717 says,
``upstream`` is what its authors' released code does, bugs included. Each switch can also be set alone
under ``fedmllm.switches``.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

#: switch -> (allowed values, value in `fixed`, in `paper`, in `upstream`)
_TABLE: dict[str, tuple[tuple[str, ...], str, str, str]] = {
    # Data.
    "text_only_label": (("text", "image"), "text", "text", "image"),
    # Rounds.
    "client_sampling": (("run_generator", "round_seed"), "run_generator", "run_generator", "round_seed"),
    # Regulariser (equation 3 of the paper).
    "regularizer_coefficient": (
        ("measured", "by_scenario", "constant"),
        "measured",
        "by_scenario",
        "constant",
    ),
    "regularizer_layers": (("model_depth", "fixed_27"), "model_depth", "model_depth", "fixed_27"),
    # Server.
    "fedavg": (("mean", "accumulate"), "mean", "mean", "accumulate"),
    "fedavgm": (("hsu", "first_delta_full"), "hsu", "hsu", "first_delta_full"),
    "fedopt": (("reddi", "first_delta_full"), "reddi", "reddi", "first_delta_full"),
    # Local training.
    "lr_round0": (("clamped", "doubled"), "clamped", "clamped", "doubled"),
    "lr_inner": (("constant", "cosine"), "constant", "constant", "cosine"),
    "accumulation_tail": (("used", "dropped"), "used", "used", "dropped"),
    "sample_order": (("fresh", "repeated"), "fresh", "fresh", "repeated"),
    "federated_parts": (("lora", "lora_and_modules"), "lora", "lora", "lora_and_modules"),
    # Evaluation.
    "decision": (("forced_choice", "sampled_text"), "forced_choice", "forced_choice", "sampled_text"),
    "auc": (("likelihood", "hard_label"), "likelihood", "likelihood", "hard_label"),
    "unparsable": (("wrong", "class_2"), "wrong", "wrong", "class_2"),
}

PROFILES = ("fixed", "paper", "upstream")

#: switch -> allowed values
SWITCHES: Mapping[str, tuple[str, ...]] = MappingProxyType({name: row[0] for name, row in _TABLE.items()})

#: Switches that belong to the scenarios; their values and meanings are in ``fs_fedmllm.scenarios.switches``,
#: which gets the profile's name and those that the user set.
SCENARIO_SWITCHES = (
    "split_seed",
    "partition_draw",
    "rows_within_label",
    "remainder",
    "minimum",
    "missing_both",
    "missing_draw",
    "cross_draw",
    "presence_draw",
    "hybrid_both",
)


def profile_switches(profile: str) -> dict[str, str]:
    """The value of every switch in a profile (``fixed``, ``paper`` or ``upstream``)."""
    column = 1 + PROFILES.index(profile)
    return {name: str(row[column]) for name, row in _TABLE.items()}
