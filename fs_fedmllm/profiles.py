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
    # Scenarios (the value of `dataset` for hidden details is in scenarios/).
    "split_seed": (("run", "authors"), "run", "run", "authors"),
    "rows_within_label": (("shuffled", "file_order"), "shuffled", "shuffled", "file_order"),
    "remainder": (("largest", "last_client"), "largest", "largest", "last_client"),
    "minimum": (("client", "label", "first_label"), "client", "client", "label"),
    "missing_both": (("keep_one", "keep_empty"), "keep_one", "keep_empty", "keep_empty"),
    "missing_draw": (("per_client", "single_stream"), "per_client", "per_client", "single_stream"),
    "hybrid_both": (("client_coin", "sample_coin"), "client_coin", "client_coin", "sample_coin"),
    "cross_draw": (("seeded", "upstream"), "seeded", "seeded", "upstream"),
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

#: Switches that belong to the scenarios and are handed to them unchanged.
SCENARIO_SWITCHES = (
    "rows_within_label",
    "remainder",
    "minimum",
    "missing_both",
    "missing_draw",
    "hybrid_both",
    "cross_draw",
)


def profile_switches(profile: str) -> dict[str, str]:
    """The value of every switch in a profile (``fixed``, ``paper`` or ``upstream``)."""
    column = 1 + PROFILES.index(profile)
    return {name: str(row[column]) for name, row in _TABLE.items()}
