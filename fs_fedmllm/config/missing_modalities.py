"""What a run does about clients that lack a modality beside the prompt and the regulariser, and what cannot be."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fs_fedmllm.algorithms import REGULARIZERS

SAMPLERS = ("uniform", "modality")
#: Fields of TRL's arguments that choose another loss than the answer's cross-entropy.
_LOSSES = ("loss_type", "label_smoothing_factor")


def told_of_rows(config: Any) -> str:
    """What a server must know of its clients' rows: ``counts`` by what they show, the ``kinds`` there are, nothing.

    Args:
        config: the whole configuration.
    """
    if config.fedmllm.aggregation.client_weights in ("balanced", "complete"):
        return "counts"
    return "kinds" if config.fedmllm.sampler == "modality" else ""


def missing_modality_faults(config: Any) -> Iterator[str]:
    """A message, naming the keys, for every combination that cannot mean anything."""
    ours = config.fedmllm
    shifts = "fedmllm.label_prior" if ours.label_prior else ""
    if REGULARIZERS[ours.regularizer.type].shifts_options:
        shifts = f"fedmllm.regularizer.type {ours.regularizer.type}"
    for name in _LOSSES if shifts else ():
        if name in ours.train.sft:
            yield (
                f"{shifts} shifts the logits of the answer's cross-entropy, and fedmllm.train.sft.{name} chooses "
                "another loss. Take one of them out."
            )
    if ours.sampler == "modality":
        yield from _sampler_faults(config)


def _sampler_faults(config: Any) -> Iterator[str]:
    if not config.method.federated:
        yield (
            f"fedmllm.sampler is modality, and federate.method {config.federate.method} draws no clients. Set it to "
            "uniform."
        )
    if config.fedmllm.privacy.dp.enabled:
        yield (
            "fedmllm.sampler is modality, which draws some clients more often than others, and the accountant of "
            "fedmllm.privacy.dp needs a uniform draw. Set fedmllm.sampler to uniform, or fedmllm.privacy.dp.clip_norm "
            "to 0."
        )
    if config.switches["client_sampling"] != "run_generator":
        yield (
            f"fedmllm.sampler is modality, and fedmllm.switches.client_sampling {config.switches['client_sampling']} "
            f"(profile {config.fedmllm.profile}) is another draw. Set the switch to run_generator, or "
            "fedmllm.sampler to uniform."
        )
