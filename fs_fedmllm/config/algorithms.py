"""Settings of single algorithms: ``fedmllm.feddyn``, ``fedmllm.moon`` and ``fedmllm.yoco``."""

from __future__ import annotations

from dataclasses import dataclass

from fs_fedmllm.config.fields import NOT_NEGATIVE, POSITIVE, key


@dataclass(frozen=True)
class FedDynConfig:
    """``fedmllm.feddyn``: with ``federate.method: feddyn``."""

    alpha: float = key(0.01, "Strength of the dynamic regulariser.", valid=POSITIVE)


@dataclass(frozen=True)
class MoonConfig:
    """``fedmllm.moon``: with ``fedmllm.regularizer.type: moon``."""

    mu: float = key(1.0, "Weight of the contrastive loss.", valid=NOT_NEGATIVE)
    temperature: float = key(0.5, "Of the contrastive loss.", valid=POSITIVE)


@dataclass(frozen=True)
class YocoConfig:
    """``fedmllm.yoco``: with ``fedmllm.regularizer.type: yoco``, one round."""

    gram_start: float = key(0.1, "Weight of ||A'A - I||^2 at the turn's first step.", valid=NOT_NEGATIVE)
    gram_end: float = key(0.01, "The same at its last step.", valid=NOT_NEGATIVE)
    sign: float = key(1.0, "Weight of the sign loss of B.", valid=NOT_NEGATIVE)
    sharpness_start: float = key(1.0, "Slope of tanh in the sign loss at the first step.", valid=POSITIVE)
    sharpness_end: float = key(200.0, "The same at the last step.", valid=POSITIVE)
