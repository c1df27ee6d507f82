"""Which of some rows stood in the training of an adapter's run: the run's own rows are read again and compared.

No digest of a row is kept beside an adapter: whoever had one could tell whether a patient's row was trained on. So it
is known where the run folder and its data still are, and nowhere else; where it is not known, it is said why. That
sentence names no path: it stands on a page that may be given away.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fs_fedmllm.config import Config, load
from fs_fedmllm.data.overlap import overlaps
from fs_fedmllm.data.sample import Dataset, Sample
from fs_fedmllm.errors import DataError, FedMLLMError
from fs_fedmllm.files.untrusted import read_mapping
from fs_fedmllm.hub.names import PREFIX
from fs_fedmllm.runs.listing import CONFIGURATION, run_folder_of
from fs_fedmllm.scenarios.reading import read_dataset

logger = logging.getLogger("fs_fedmllm")


@dataclass(frozen=True)
class TrainedOn:
    """What of some rows is known from training.

    Attributes:
        of: rows that were looked at.
        rows: of them, those that show what a training row of the run shows: the same picture, text and question.
        image_rows: of them, those whose picture stands in a training row.
        unknown: why nobody can tell; empty where it was counted.
    """

    of: int
    rows: int = 0
    image_rows: int = 0
    unknown: str = ""

    @property
    def any(self) -> bool:
        """Whether some are known."""
        return bool(self.rows or self.image_rows)

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        if self.unknown:
            return {"of": self.of, "unknown": self.unknown}
        return {"of": self.of, "rows": self.rows, "image_rows": self.image_rows}

    def said(self) -> str:
        """In a sentence, without its full stop."""
        if self.unknown:
            return f"whether the run was trained on some of them is not known: {self.unknown}"
        if not self.any:
            return f"none of the {self.of:,} shows what a training row of the run shows, or shares its image"
        parts = [f"{self.rows:,} of {self.of:,} rows show what a training row of the run shows"] if self.rows else []
        if self.image_rows:
            of = "" if parts else f" of {self.of:,} rows"
            parts.append(f"{self.image_rows:,}{of} share their image with one")
        return f"{', and '.join(parts)}: of what the adapter was trained on, figures say little"


def trained_on(reference: str, rows: Sequence[Sample]) -> TrainedOn:
    """Compare rows with the training rows of an adapter's run.

    Args:
        reference: the adapter or the run folder, as the user names it.
        rows: any.
    """
    count = len(rows)
    if reference.startswith(PREFIX) or not (run_folder_of(Path(reference)) / CONFIGURATION).is_file():
        return TrainedOn(count, unknown="an adapter does not say which rows it was trained on, a run folder does")
    folder = run_folder_of(Path(reference))
    try:
        trained = _training_rows(load(folder / CONFIGURATION, host=True), folder)
    except _NotKnownError as error:
        return TrainedOn(count, unknown=str(error))
    except (FedMLLMError, OSError) as error:
        logger.info("The rows of the run in %s cannot be read again: %s", folder, error)
        return TrainedOn(count, unknown="the run's own rows cannot be read again where they were (data.root)")
    shared = overlaps(Dataset("", "", train=trained, val=(), test=rows)).get("train_test")
    return TrainedOn(count, shared["rows"], shared["image_rows"]) if shared else TrainedOn(count)


class _NotKnownError(Exception):
    """The rows are there, and are not known to be those of the run."""


def _training_rows(config: Config, folder: Path) -> Sequence[Sample]:
    file = folder / "manifest.json"
    if not file.is_file():
        raise _NotKnownError("its clients did not tell the server which rows they have")
    recorded = read_mapping(file, DataError)
    dataset = read_dataset(config)
    if recorded.get("fingerprint") != dataset.fingerprint:
        raise _NotKnownError("the files in data.root are no longer those that the run was trained on")
    if not dataset.train:
        raise _NotKnownError("the run's training rows are not here")
    return dataset.train
