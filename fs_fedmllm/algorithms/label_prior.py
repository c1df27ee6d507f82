"""A client's own label prior, added to the options' logits while it trains: logit adjustment in a federation.

    L = -log softmax(z + s)_y,   s_c = tau log(C pi_c),   pi_c = (n_c + 0.1) / sum_j (n_j + 0.1)

z are the logits of the tokens that decide between the C options, in the one column where they part (options in words
part in several, and s is shared out over them: :mod:`fs_fedmllm.rounds.option_shift`); every other token and column is
left alone. n_c are the client's own rows by label. Menon et al. 2021 ("Long-tail learning via
logit adjustment", ICLR, arXiv 2007.07314) add tau log pi to the logits of a classifier that is trained on skewed
labels: what the labels' shares alone would explain need not be learnt, so that clients with other shares agree on the
rest. Decided here: the factor C, so that a client with even labels has s = 0 and trains to the bytes of a run without
it (in the softmax over the options alone it changes nothing; among all tokens of a vocabulary it keeps the options'
total near where it was), and 0.1 for an option that the client has no row of. Evaluation adds nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from fs_fedmllm.algorithms.client import ClientHalf


def label_prior(counts: Sequence[int], tau: float) -> tuple[float, ...]:
    """s, by option; exactly 0 throughout where all counts are alike.

    Args:
        counts: the client's rows of each option.
        tau: strength; 1 is the adjustment that the paper proves consistent.
    """
    # In tenths, as whole numbers: a quotient of equal ones is exactly 1, whose logarithm is exactly 0.
    tenths = [10 * count + 1 for count in counts]
    total = sum(tenths)
    return tuple(tau * math.log(len(tenths) * own / total) for own in tenths)


class LabelPriorClient(ClientHalf):
    """The shift of one client.

    Args:
        counts: the client's rows of each option.
        tau: ``fedmllm.label_prior``.
    """

    def __init__(self, counts: Sequence[int], tau: float):
        self.option_shift = label_prior(counts, tau)
