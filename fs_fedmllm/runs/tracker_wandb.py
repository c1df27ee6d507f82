"""Weights & Biases, by its own client. ``WANDB_MODE``, ``WANDB_PROJECT`` and the login are the client's own affair."""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

PROJECT = "fs-fedmllm"


class WandbTracker:
    """One run; files of the client go into ``wandb/`` of the run folder."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._run: Any = None

    def open(self, name: str, known: str, settings: Mapping[str, Any]) -> str:
        """See :class:`~fs_fedmllm.runs.tracking.Tracker`; nobody is asked to log in."""
        import wandb

        mode = os.environ.get("WANDB_MODE") or "online"
        if mode == "online" and not wandb.login(prompt=False):
            mode = "offline"
            logger.warning("wandb is not logged in here, so the run is kept in %s; wandb sync sends it.", self._folder)
        run = known or secrets.token_hex(8)
        # Neither the terminal's lines, nor code, nor what this machine is called or runs.
        quiet = wandb.Settings(
            console="off", silent=True, disable_git=True, disable_code=True, save_code=False, host="",
            x_disable_meta=True, x_disable_stats=True, x_disable_machine_info=True,
        )  # fmt: skip
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or PROJECT, name=name, id=run, resume="allow", mode=mode,  # type: ignore[arg-type]
            dir=str(self._folder), config=dict(settings), settings=quiet,
        )  # fmt: skip
        self._run.define_metric("round")
        self._run.define_metric("*", step_metric="round")
        return run

    def log(self, number: int, step: int, figures: Mapping[str, float]) -> None:
        """See :class:`~fs_fedmllm.runs.tracking.Tracker`; the line's number is wandb's step, which only ascends."""
        self._run.log({**figures, "round": step}, step=number)

    def close(self, status: str) -> None:
        """See :class:`~fs_fedmllm.runs.tracking.Tracker`."""
        self._run.finish(exit_code=0 if status == "finished" else 1)
