"""Our metrics as local modules of the ``evaluate`` library, so that its users can combine them with others.

``evaluate.load(metric_path("macro_f1"))`` reads a script from this folder and needs no network. The scripts import
``evaluate`` and ``datasets``; this module does not. The numbers are
those of :mod:`fs_fedmllm.evaluation.metrics`, which a run calls too.
"""

from __future__ import annotations

from pathlib import Path

from fs_fedmllm.evaluation.metrics import MetricError

#: Each is a folder here with a script of the same name, which is how ``evaluate`` finds it.
METRICS = ("macro_f1", "option_auc", "vqa_accuracy")


def metric_path(name: str) -> str:
    """The folder to give to ``evaluate.load``.

    Args:
        name: one of :data:`METRICS`.

    Raises:
        MetricError: there is no such metric.
    """
    if name not in METRICS:
        raise MetricError(f"No local metric {name!r} for the evaluate library; there are {', '.join(METRICS)}.")
    return str(Path(__file__).resolve().parent / name)
