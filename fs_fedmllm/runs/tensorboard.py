"""TensorBoard events of a run: what ``metrics.jsonl`` says, each step once, whatever happened in between."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

Named = Callable[[Mapping[str, Any]], Mapping[str, float]]


class Events:
    """The events of a run folder.

    Args:
        folder: ``events/`` of the run; the file is made with the first number.
        named: the numbers of a line of ``metrics.jsonl``, by the names that events have.
    """

    def __init__(self, folder: Path, named: Named):
        self._folder = folder
        self._named = named
        self._writer: Any = None

    def record(self, line: Mapping[str, Any]) -> None:
        """Add a line's numbers."""
        for name, value in self._named(line).items():
            self._made().add_scalar(name, value, line["round"])

    def keep(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Leave only what these lines say, before a resumed run computes what came after them again.

        Events keep the time at which they were written. What a killed process had not yet written is added.

        Args:
            lines: of ``metrics.jsonl`` that stand.
        """
        files = sorted(path for path in self._folder.glob("*tfevents*") if path.is_file())
        if not files:
            return
        from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

        wanted = {(name, int(line["round"])): value for line in lines for name, value in self._named(line).items()}
        kept: dict[tuple[str, int], float] = {}
        for file in files:
            for event in EventFileLoader(str(file)).Load():
                for value in event.summary.value:
                    place = (value.tag, int(event.step))
                    if place in wanted:
                        kept.setdefault(place, event.wall_time)
        for file in files:
            file.unlink()
        for (name, step), value in wanted.items():
            self._made().add_scalar(name, value, step, walltime=kept.get((name, step)))
        self.close()

    def close(self) -> None:
        """Flush."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _made(self) -> Any:
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self._folder))
        return self._writer
