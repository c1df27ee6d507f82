"""What stands for a row in the model: what enters the LM head in the column that predicts the answer's first token.

It is the first place that the forced choice reads, and where options have letters the only one.
"""

from __future__ import annotations

import torch


def answer_representation(head_input: torch.Tensor, labels: torch.Tensor, ignored: int) -> torch.Tensor:
    """The columns that predict the answers' first tokens.

    Args:
        head_input: (rows, columns of labels, width), what enters the LM head.
        labels: (rows, columns) token ids, ``ignored`` outside the answers, and in the first column always.
        ignored: see above.

    Returns:
        (rows, width) in float32.
    """
    first = (labels != ignored).int().argmax(dim=1)
    rows = torch.arange(len(labels), device=head_input.device)
    return head_input[rows, first.to(head_input.device) - 1].float()
