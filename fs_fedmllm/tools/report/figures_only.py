"""A run of which only the figures are here: its folder is on another machine, or gone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from fs_fedmllm.evaluation.predictions import Prediction
from fs_fedmllm.tools.report.finished import Run
from fs_fedmllm.tools.sweeps.figures_file import Recorded


@dataclass(frozen=True, kw_only=True)
class FiguresOnly(Run):
    """A run that a file of figures tells of. It has no configuration, rows or curves, and no file of it is read.

    Attributes:
        recorded: what the file says.
    """

    recorded: Recorded

    @classmethod
    def told(cls, recorded: Recorded) -> FiguresOnly:
        """The run of a record."""
        name = recorded.made_by["folder"]
        return cls(Path(name), recorded.seed, {}, recorded.diverged, recorded=recorded)

    def of(self, test_set: str) -> Run:
        """The run itself: a further test set's figures stand under their full names."""
        return self

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """Unknown."""
        return {}

    @cached_property
    def predictions(self) -> list[Prediction]:
        """None are here."""
        return []

    @cached_property
    def lines(self) -> list[Mapping[str, Any]]:
        """None are here."""
        return []

    @property
    def made_by(self) -> dict[str, str]:
        """As the file has it."""
        return self.recorded.made_by

    @property
    def has_zero_shot(self) -> bool:
        """Whether figures of a zero-shot row were read off this run."""
        return any(at == "zero_shot" for _, at in self.recorded.figures)

    def value(self, name: str, at: str) -> float | None:
        """A figure of the file; as for :class:`Run`."""
        return self.recorded.figure(name, at)
