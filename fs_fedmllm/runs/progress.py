"""What a run shows while it goes on: a bar on a terminal, plain lines anywhere else."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from fs_fedmllm.config import Config
from fs_fedmllm.data.client_names import called
from fs_fedmllm.rounds.client_update import ClientUpdate
from fs_fedmllm.runs.listener import Listener
from fs_fedmllm.runs.verbosity import shows_progress

#: Seconds between two drawings of the bar, and between two lines where nobody watches.
_DRAWN, _LINE = 0.2, 60.0


class ConsoleProgress(Listener):
    """One bar over all client updates, with round, client, loss and the time left; evaluations above it.

    Args:
        config: for the number of updates.
        console: where to; standard error by default.
    """

    def __init__(self, config: Config, console: Console | None = None):
        self._rounds = config.federate.total_round_num
        self._metric = config.eval.best_res_update_round_wise_key
        self._total = config.updates_per_round * self._rounds
        self._console = console or Console(stderr=True)
        self._progress: Progress | None = None
        self._task: Any = None
        self._done = 0
        self._names: Mapping[int, str] = {}
        self._last = time.monotonic()

    def _bar(self) -> Progress:
        """The bar; drawn at the first event, so that errors before it stand alone."""
        if self._progress is None:
            plain = sys.stderr
            # Drawn by hand: a thread that draws would be forked with the workers, in whatever it was doing.
            self._progress = Progress(
                TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[loss]}"),
                TimeElapsedColumn(), TimeRemainingColumn(), console=self._console, auto_refresh=False,
            )  # fmt: skip
            self._task = self._progress.add_task("", total=self._total, completed=self._done, loss="")
            self._progress.start()
            os.register_at_fork(after_in_child=lambda: setattr(sys, "stderr", plain))  # what a worker says is not ours
        return self._progress

    def _say(self, line: str) -> None:
        """A line above the bar; where nobody watches, a plain one."""
        if not shows_progress():
            return
        if self._console.is_terminal:
            self._bar().console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            print(line, file=self._console.file, flush=True)

    def evaluated(self, done_rounds: int, figures: dict[str, float]) -> None:
        """Print the metric that picks the best round, above the bar."""
        shown = [n for n in (self._metric, "test_macro_f1", "test_auc", "test_acc") if n in figures]
        text = ", ".join(f"{name} {figures[name]:.4f}" for name in dict.fromkeys(shown))
        self._say(f"{'zero-shot' if done_rounds == 0 else f'round {done_rounds}'}: {text}")

    def test_set_evaluated(self, done_rounds: int, name: str, figures: dict[str, float]) -> None:
        """Print a further test set's figures, above the bar."""
        self._say(f"{'zero-shot' if done_rounds == 0 else f'round {done_rounds}'}, {name}: {said_figures(figures)}")

    def trained(self, round_index: int, update: ClientUpdate) -> None:
        """Advance the bar; where nobody watches, say so once a minute."""
        self._done += 1
        now = time.monotonic()
        at = f"round {round_index + 1}/{self._rounds} client {called(update.client, self._names)}"
        if self._console.is_terminal and shows_progress():
            drawn = now - self._last > _DRAWN or self._done >= self._total
            loss = f"loss {update.log.loss:.3f}"
            said = escape(at)  # a name is no markup
            self._bar().update(self._task, completed=self._done, description=said, loss=loss, refresh=drawn)
            self._last = now if drawn else self._last
        elif now - self._last > _LINE:
            self._say(f"{at}: {self._done:,} of {self._total:,} updates, loss {update.log.loss:.3f}")
            self._last = now

    def refused(self, round_index: int, client: int, reason: str) -> None:
        """The session's warning has said who was left out and why."""

    def began(self, names: Mapping[int, str]) -> None:
        """Know what clients are called."""
        self._names = names

    def resumed(self, updates: int) -> None:
        """Start the bar where the checkpoint stands; the time left follows from this process alone."""
        self._done = updates

    def close(self) -> None:
        """Finish the bar."""
        if self._progress is not None:
            self._progress.stop()


def said_figures(figures: Mapping[str, Any]) -> str:
    """The main figures of an evaluation of test rows, on one line."""
    shown = ("test_macro_f1", "test_auc", "test_acc", "test_open_acc", "test_closed_acc")
    return ", ".join(f"{name.removeprefix('test_')} {figures[name]:.4f}" for name in shown if name in figures)
