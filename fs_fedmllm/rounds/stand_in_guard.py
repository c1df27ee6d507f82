"""Whether clients may stand in for a modality: decided at the server, round by round, and written down.

Standing in harms where the label is a relation of both modalities: a row whose image says nothing then teaches that
something without content can match. What tells the two apart is whether the other modality alone decides anything. So
``guard: validation`` shows the server's complete validation rows with one modality only; images are stood in for as
long as the texts alone are right on more than the largest label's share and two standard errors, and texts as long as
the images alone are. It asks before every second round, from the third on, all through the run: asked once and early
it misses what the model has not learnt yet, and an answer that was chance's is taken back at the next asking.

What it cannot see: a label of which one modality tells a part and the relation of both the rest.

``use: auto`` comes before it: where any client has a complete training row nothing is stood in for, since there
stand-ins add nothing and cost something (docs/cross_modality.md).
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from fs_fedmllm.data.sample import MODALITIES
from fs_fedmllm.rounds.federation import Federation
from fs_fedmllm.rounds.schedule import guard_asks, stand_in_kinds
from fs_fedmllm.scenarios.fitting import complete_validation_rows

logger = logging.getLogger(__name__)

#: Standard errors above the largest label's share.
ERRORS = 2.0


def decision(
    federation: Federation, round_index: int, params: Mapping[str, torch.Tensor], earlier: Sequence[Mapping[str, Any]]
) -> dict[str, Any] | None:
    """What is decided before a round, if anything is.

    Returns:
        ``round``, ``image`` and ``text`` (whether they are stood in for from now on), ``why``, and of an asking
        ``image_alone``, ``text_alone``, ``bound`` and ``rows``; None where all stays as it is.
    """
    config = federation.config
    ours = config.fedmllm.stand_ins
    chosen, kinds = stand_in_kinds(ours), stand_in_kinds(ours, federation.presence)
    if not chosen or (earlier and earlier[-1]["round"] == round_index):
        return None
    barred = not kinds
    if not earlier:
        guarded = config.fedmllm.stand_ins.guard == "validation"
        why = "clients have complete rows" if barred else "not asked yet" if guarded else "no guard"
        on = frozenset() if barred or guarded else kinds
        return {"round": round_index, "image": "image" in on, "text": "text" in on, "why": why}
    if barred or not guard_asks(config, round_index):
        return None
    rows = complete_validation_rows(config, federation.data.dataset)
    alone = federation.right_alone(params, rows)
    chance = max(Counter(row.label for row in rows).values()) / len(rows)
    bound = chance + ERRORS * math.sqrt(chance * (1 - chance) / len(rows))
    return {
        "round": round_index,
        "image": "image" in kinds and alone["text"] > bound,
        "text": "text" in kinds and alone["image"] > bound,
        "why": "validation rows",
        "image_alone": alone["image"],
        "text_alone": alone["text"],
        "bound": bound,
        "rows": len(rows),
    }


def decided(
    federation: Federation, round_index: int, params: Mapping[str, torch.Tensor], earlier: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """All decisions so far and that of this round, which the log says; arguments as for :func:`decision`."""
    entry = decision(federation, round_index, params, earlier)
    if entry is None:
        return earlier
    changed = not earlier or any(entry[kind] != earlier[-1][kind] for kind in MODALITIES)
    logger.log(logging.WARNING if changed else logging.INFO, "%s", sentence(entry))
    return [*earlier, entry]


def allowed_by(decisions: Sequence[Mapping[str, Any]]) -> frozenset[str]:
    """What clients may stand in for now."""
    return frozenset(kind for kind in MODALITIES if decisions[-1][kind]) if decisions else frozenset()


def sentence(entry: Mapping[str, Any]) -> str:
    """A decision in words, for the log."""
    said = f"Round {entry['round']}: stand-ins for images {_on(entry['image'])}, for texts {_on(entry['text'])}"
    if "bound" not in entry:
        return f"{said} ({entry['why']})."
    return (
        f"{said} (of {entry['rows']} complete validation rows texts alone decide {entry['text_alone']:.3f} and images "
        f"alone {entry['image_alone']:.3f}; the bound is {entry['bound']:.3f})."
    )


def _on(value: bool) -> str:
    return "on" if value else "off"
