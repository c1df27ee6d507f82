"""What a run does about clients that lack a modality beside the prompt and the regulariser, and what cannot be."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from fs_fedmllm.algorithms import REGULARIZERS
from fs_fedmllm.keys import Range, key

SAMPLERS = ("uniform", "modality")
#: Fields of TRL's arguments that choose another loss than the answer's cross-entropy.
_LOSSES = ("loss_type", "label_smoothing_factor")


@dataclass(frozen=True)
class StandInsConfig:
    """``fedmllm.stand_ins``: rows of one modality shown in the form of complete ones, in training only."""

    use: str = key(
        "off",
        "auto: if no client has a complete training row, and if guard allows it; force: if guard allows it.",
        choices=("off", "auto", "force"),
    )
    q: float = key(
        0.5, "Probability that a row of one modality is shown as a complete one.", valid=Range(0, 1, open_low=True)
    )
    image: str = key("noise", "What stands in for an image.", choices=("noise", "off"))
    text: str = key(
        "neutral",
        "What stands in for a text: a random sentence unrelated to the task, random tokens, or nothing.",
        choices=("neutral", "tokens", "off"),
    )
    guard: str = key(
        "validation",
        "validation: a modality has stand-ins as long as the other one alone is above chance on the server's complete "
        "validation rows, tested before every second round; none: always.",
        choices=("validation", "none"),
    )


def told_of_rows(config: Any) -> str:
    """What a server must know of its clients' rows: ``counts`` by what they show, the ``kinds`` there are, nothing."""
    if config.fedmllm.aggregation.client_weights in ("balanced", "complete"):
        return "counts"
    asked = config.fedmllm.sampler == "modality" or config.fedmllm.stand_ins.use == "auto"
    return "kinds" if asked else ""


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
    yield from _stand_in_faults(config)


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


def _stand_in_faults(config: Any) -> Iterator[str]:
    chosen, prefix = config.fedmllm.stand_ins, "fedmllm.stand_ins"
    if chosen.use == "off":
        for name in ("q", "image", "text", "guard"):
            if getattr(chosen, name) != getattr(StandInsConfig(), name):
                yield f"{prefix}.{name} is set, and {prefix}.use is off, so it has no effect. Set use to auto."
        return
    if chosen.image == chosen.text == "off":
        yield f"{prefix}.use is {chosen.use}, and {prefix}.image and text are both off. Set use to off."
    if not config.method.has_global:
        yield (
            f"{prefix}.use is {chosen.use}, and federate.method {config.federate.method} has no server that could "
            "decide on them. Set use to off."
        )
    if chosen.use == "auto" and config.fedmllm.privacy.dp.enabled:
        yield (
            f"{prefix}.use is auto, which looks at what every client's rows show, and fedmllm.privacy.dp does not "
            "account for that. Set use to force if you know that no client has complete rows, or to off."
        )
