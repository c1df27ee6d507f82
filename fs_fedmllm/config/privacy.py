"""``fedmllm.privacy``: what a run promises about its clients, and how. See docs/privacy.md."""

from __future__ import annotations

from dataclasses import dataclass, field

from fs_fedmllm.keys import DECAY, NOT_NEGATIVE, POSITIVE, Range, key


@dataclass(frozen=True)
class DPConfig:
    """``fedmllm.privacy.dp``: client-level differential privacy of the adapters (DP-FedAvg, McMahan et al. 2018)."""

    clip_norm: float = key(
        0.0,
        "L2 bound on a client's update, over all tensors together; above 0 switches differential privacy on, and "
        "clients then count equally whatever their rows.",
        valid=NOT_NEGATIVE,
    )
    noise_multiplier: float = key(
        0.0,
        "Standard deviation of the noise on the sum of the updates, in units of clip_norm.",
        valid=NOT_NEGATIVE,
    )
    target_epsilon: float = key(
        0.0,
        "Solve for the noise_multiplier that gives this epsilon after total_round_num rounds; 0 takes the one given.",
        valid=NOT_NEGATIVE,
    )
    delta: float = key(0.0, "Epsilon holds for this delta; 0 takes client_num ** -1.1.", valid=DECAY)
    sampling: str = key(
        "fixed",
        "How a round's clients are drawn: a fixed number without replacement, or each by itself with the same "
        "probability.",
        choices=("fixed", "poisson"),
    )

    @property
    def enabled(self) -> bool:
        """Whether the run is differentially private."""
        return self.clip_norm > 0


def threshold_of(share: float, clients: int) -> int:
    """How many of so many clients a share of them is: rounded up, above half, at least 2."""
    return max(2, clients // 2 + 1, -int(-share * clients // 1))


@dataclass(frozen=True)
class SecureAggregationConfig:
    """``fedmllm.privacy.secure_aggregation``: the server learns sums only (Bonawitz et al. 2017)."""

    enabled: bool = key(False, "Mask updates, so that the server can read their sum and no single one.")
    threshold: float = key(
        0.67,
        "Share of a round's clients that must be there at the end of it; with fewer the round fails and nothing is "
        "opened.",
        valid=Range(0.5, 1, open_low=True),
    )
    value_range: float = key(
        1.0,
        "Largest change of a parameter in one turn that is sent in full; precision is this over 2^31 per client.",
        valid=POSITIVE,
    )


@dataclass(frozen=True)
class PrivacyConfig:
    """``fedmllm.privacy``."""

    dp: DPConfig = field(default_factory=DPConfig)
    secure_aggregation: SecureAggregationConfig = field(default_factory=SecureAggregationConfig)
