"""What a model card is written from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Facts:
    """What a card is written from.

    Attributes:
        repo: ``owner/name``, for the loading line.
        config: the configuration as a mapping, without paths.
        results: as in results.json.
        manifest: as in manifest.json; of its rows only counts are shown.
        round: rounds done by the adapter that the card is of.
        entry: the evaluation of that round, or None.
        base: public id of the base.
        base_licence: its licence, or ``unknown``.
        licence: the adapter's, or empty.
        intervals: metric (``acc``, ``image_acc``) -> (low, high) of 95 %, from row decisions.
        mean_of: of how many of the last rounds' adapters it is the mean; 0: of none, it is a round's own.
        task: of the prompts: ``choice`` or ``vqa``; empty where nobody said.
        lettered: whether a choice's options have letters.
    """

    repo: str
    config: Mapping[str, Any]
    results: Mapping[str, Any]
    manifest: Mapping[str, Any]
    round: int
    entry: Mapping[str, Any] | None
    base: str
    base_licence: str
    licence: str
    intervals: Mapping[str, tuple[float, float]]
    mean_of: int = 0
    task: str = ""
    lettered: bool = True
