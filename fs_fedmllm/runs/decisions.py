"""What was decided on stand-ins over a run, in a few words; of results.json alone, so that reports may ask too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fs_fedmllm.data.sample import MODALITIES


def said_decisions(decisions: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for the closing table; none where a run has no stand-ins.

    Args:
        decisions: ``stand_ins`` of results.json.
    """
    if not decisions:
        return []
    said = "; ".join(f"{kind}s {spans(decisions, kind)}" for kind in MODALITIES)
    return [f"stand-ins: {said} ({len(decisions)} decisions, see results.json)"]


def spans(decisions: Sequence[Mapping[str, Any]], kind: str) -> str:
    """From which rounds to which a modality was stood in for, such as ``rounds 4-7, from round 10``."""
    found: list[list[int | None]] = []
    for entry in decisions:
        if entry[kind] and (not found or found[-1][1] is not None):
            found.append([entry["round"], None])
        elif not entry[kind] and found and found[-1][1] is None:
            found[-1][1] = entry["round"] - 1
    parts = [f"from round {first}" if last is None else f"rounds {first}-{last}" for first, last in found]
    return ", ".join(parts) or "never"
