"""FedLC (Zhang et al. 2022, "Federated Learning with Label Distribution Skew via Logits Calibration", ICML,
arXiv 2209.00189).

    L = -log exp(z_y - tau n_y^(-1/4)) / sum_c exp(z_c - tau n_c^(-1/4))

n_c are the client's own rows of label c; z the logits of the tokens that decide between the options, in the one column
where they part. The margin is largest for the label that the client has least of. The same place and hook as
:mod:`fs_fedmllm.algorithms.label_prior`, with another shift (options in words: shared out over where they part, as
there; the paper has one softmax only). Decided here, where the formula leaves it open:

* A label that the client has no row of has an infinite margin in the formula; here it counts as 1e-8 rows (a margin of
  100 tau), which takes it out of the softmax as well.
* All shifts are moved so that the most frequent label's is 0. Among the options nothing changes; a language model's
  softmax has other tokens too, which no margin of the paper's speaks of. With even labels the shift is 0 throughout.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from fs_fedmllm.algorithms.client import ClientContext, ClientHalf
from fs_fedmllm.algorithms.regularizer import Regularizer
from fs_fedmllm.keys import NOT_NEGATIVE, key

#: Rows that a label counts as of which a client has none.
NONE = 1.0e-8


@dataclass(frozen=True)
class FedLCConfig:
    """``fedmllm.fedlc``: with ``fedmllm.regularizer.type: fedlc``."""

    tau: float = key(1.0, "Strength of the calibration.", valid=NOT_NEGATIVE)


class FedLC(Regularizer):
    """The calibrated loss."""

    name: ClassVar[str] = "fedlc"
    section: ClassVar[str] = "fedlc"
    parameters: ClassVar[type | None] = FedLCConfig
    shifts_options: ClassVar[bool] = True

    @classmethod
    def client(cls, parameters: FedLCConfig, context: ClientContext) -> FedLCClient | None:
        return FedLCClient(parameters, context) if context.label_counts else None

    @classmethod
    def faults(cls, config: Any) -> Iterator[str]:
        if config.fedmllm.label_prior:
            yield (
                "fedmllm.regularizer.type fedlc and fedmllm.label_prior both shift the options' logits by the "
                "client's label counts. Set the first to none, or the second to 0."
            )


def calibration(counts: Sequence[int], tau: float) -> tuple[float, ...]:
    """What is added to the logits, by option: -tau n_c^(-1/4), moved so that the most frequent label's is 0.

    Args:
        counts: the client's rows of each option.
        tau: strength.
    """
    margins = [max(count, NONE) ** -0.25 for count in counts]
    return tuple(tau * (min(margins) - own) + 0.0 for own in margins)


class FedLCClient(ClientHalf):
    """The shift of one client."""

    def __init__(self, parameters: FedLCConfig, context: ClientContext):
        self.option_shift = calibration(context.label_counts, parameters.tau)
