"""MLflow, by its own client. ``MLFLOW_TRACKING_URI`` and ``MLFLOW_EXPERIMENT_NAME`` are the client's own affair.

Where no store is named, runs go into ``mlruns`` beside their folders, which needs no database.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

EXPERIMENT = "fs-fedmllm"
#: Parameters that the client takes at once.
_BATCH = 100


class MlflowTracker:
    """One run."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._client: Any = None
        self._run = ""

    def open(self, name: str, known: str, settings: Mapping[str, Any]) -> str:
        """See :class:`~fs_fedmllm.runs.tracking.Tracker`."""
        from mlflow import MlflowClient
        from mlflow.entities import Param

        logging.getLogger("mlflow").setLevel(logging.ERROR)
        store = os.environ.get("MLFLOW_TRACKING_URI")
        if not store:
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
            store = (self._folder.absolute().parent / "mlruns").as_uri()
        self._client = client = MlflowClient(tracking_uri=store)
        if known:
            self._run = known
            client.update_run(known, status="RUNNING")
            return known
        title = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
        found = client.get_experiment_by_name(title)
        experiment = found.experiment_id if found is not None else client.create_experiment(title)
        # MLflow would name the machine's user.
        self._run = client.create_run(experiment, run_name=name, tags={"mlflow.user": ""}).info.run_id
        parameters = [Param(key, str(value)) for key, value in settings.items()]
        for start in range(0, len(parameters), _BATCH):
            client.log_batch(self._run, params=parameters[start : start + _BATCH])
        return self._run

    def log(self, number: int, step: int, figures: Mapping[str, float]) -> None:
        """See :class:`~fs_fedmllm.runs.tracking.Tracker`."""
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        self._client.log_batch(self._run, metrics=[Metric(name, value, now, step) for name, value in figures.items()])

    def close(self, status: str) -> None:
        """See :class:`~fs_fedmllm.runs.tracking.Tracker`."""
        self._client.set_terminated(self._run, "FINISHED" if status == "finished" else "KILLED")
