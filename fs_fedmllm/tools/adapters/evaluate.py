"""External validation: an adapter on any labelled rows, with everything that is to be said of the figures."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fs_fedmllm.config import Config
from fs_fedmllm.config.metric_paths import named_metrics
from fs_fedmllm.data.content import rows_sha256
from fs_fedmllm.data.sample import Dataset, Sample
from fs_fedmllm.data.shapes import check_shapes
from fs_fedmllm.errors import ConfigError, DataError
from fs_fedmllm.evaluation.calibration import calibration, calibration_error, confusion
from fs_fedmllm.evaluation.evaluator import Evaluator
from fs_fedmllm.evaluation.form import form_figures
from fs_fedmllm.evaluation.predictions import Prediction, shown_as
from fs_fedmllm.evaluation.row_metrics import accuracy, among
from fs_fedmllm.evaluation.slices import PREFIXES, interval_of, slice_figures
from fs_fedmllm.evaluation.views import view_figures
from fs_fedmllm.files.untrusted import open_regular
from fs_fedmllm.hub.fetch import TENSORS
from fs_fedmllm.models.encoding import Encoder
from fs_fedmllm.models.lengths import row_lengths
from fs_fedmllm.models.vision import VisionFeatures
from fs_fedmllm.scenarios.fitting import fitting_template
from fs_fedmllm.scenarios.judged import evaluated_rows
from fs_fedmllm.tools.adapters.opening import Opened
from fs_fedmllm.version import VERSION

#: Values of a key that a table of slices has room for.
MOST_VALUES = 40


def evaluate(
    opened: Opened,
    config: Config,
    dataset: Dataset,
    *,
    split: str = "test",
    prompt: str = "",
    by: Sequence[str] = (),
    views: bool = True,
    told: Callable[[str], None] = lambda _: None,
) -> tuple[dict[str, Any], list[Prediction]]:
    """Evaluate an adapter on rows of a data set.

    Args:
        opened: the adapter.
        config: names the data set; of it ``fedmllm.template``, ``fedmllm.eval``, the profile and
            :attr:`~fs_fedmllm.config.Config.resampled_by` (rows that intervals resample together) are used.
        dataset: as read.
        split: ``test``, ``val`` or ``train``.
        prompt: ``original`` or ``augmented``; empty takes the training's.
        by: keys of the rows to slice by, such as a hospital.
        views: also show rows that have both modalities with one of them.
        told: of what is done next.

    Returns:
        The document, as in ``evaluation.json``, and the predictions that it is of.

    Raises:
        ConfigError: no row has a key of ``by``.
        DataError: the split has no rows, a label is outside the template's options, or an image cannot be read.
    """
    started = time.perf_counter()
    template = fitting_template(config, dataset)
    rows, every = chosen_rows(config, dataset, split), getattr(dataset, split)
    for key in by:
        if not any(row.keys.get(key) for row in rows):
            known = ", ".join(sorted({name for row in rows for name in row.keys})) or "none; see fedmllm.data.groups"
            raise ConfigError(f"--by {key}: no {split} row has that key. Keys here: {known}.")
    check_shapes(rows, opened.mllm.family.widest, opened.mllm.family.name)
    known_as = opened.description
    variant = prompt or (known_as.prompt if known_as is not None else config.fedmllm.prompt)
    tokens = known_as.max_new_tokens if known_as is not None else config.fedmllm.eval.max_new_tokens
    settings = dataclasses.replace(config.fedmllm.eval, max_new_tokens=tokens)
    lengths = row_lengths(opened.mllm, known_as.max_length if known_as is not None else -1, tokens)
    mllm = opened.mllm
    cached = mllm.takes_vision_features and mllm.vision_is_frozen and config.fedmllm.vision_cache.enabled
    vision = VisionFeatures(mllm, config.fedmllm.vision_cache.memory_mib << 20) if cached else None
    encoder = Encoder(mllm, template, variant, vision, lengths)
    evaluator = Evaluator(encoder, settings, config.switches)
    together = config.resampled_by
    figures: dict[str, float] = {}
    predictions: list[Prediction] = []
    both = any(row.presence == "both" for row in rows)
    with evaluator.one_adapter():
        for shown in ("both", "image", "text") if views and both else ("both",):
            told(f"{len(rows):,} rows" + ("" if shown == "both" else f", {shown} only"))
            own, said = evaluator.predict(rows, shown, together)
            figures |= {f"{PREFIXES[shown].removeprefix('test_')}{name}": value for name, value in own.items()}
            predictions += said
    whole = shown_as(predictions, "both")
    further = named_metrics(settings.metrics)
    sliced = slice_figures(predictions, template, clients={}, seed=config.seed, further=further)
    intervals = {name.removeprefix("test_"): value for name, value in sliced["intervals"].items()}
    found = calibration(whole)
    if found is not None:
        figures["ece"] = found["ece"]
        error = calibration_error(whole)
        assert error is not None
        if own_interval := interval_of(error, whole, config.seed):
            intervals["ece"] = own_interval
    slices = {"modality": _slices(whole, [row.presence for row in rows], config.seed)}
    if len({row.kind for row in rows}) > 1:
        slices["kind"] = _slices(whole, [row.kind for row in rows], config.seed)
    for key in by:
        slices[key] = _slices(whole, [row.keys.get(key) or "(none)" for row in rows], config.seed)
    return {
        "version": VERSION,
        "adapter": opened.folder.name,
        "adapter_sha256": tensors_sha256(opened.folder),
        "base": opened.base,
        "trained_with": known_as.template.name if known_as is not None else None,
        "template": template.name,
        "prompt": variant,
        "metric": template.metric,
        "data": {
            "type": dataset.name,
            "called": dataset.called,
            "split": split,
            "rows": len(rows),
            "all": len(every),
            "limit": settings.limit,
            "presence": dict(sorted(Counter(row.presence for row in rows).items())),
            "content_sha256": rows_sha256(rows),
        },
        "figures": figures,
        "intervals": intervals,
        "classes": sliced["classes"],
        "combine": known_as.combine if known_as is not None else "joint",
        "views": view_figures(predictions, template, config.seed),
        "slices": slices,
        "calibration": found,
        "confusion": confusion(whole, template.options),
        "out_of_form": form_figures(whole),
        "shortened_rows": encoder.count_shortened(rows),
        "seconds": round(time.perf_counter() - started, 3),
    }, predictions


def chosen_rows(config: Config, dataset: Dataset, split: str) -> Sequence[Sample]:
    """The rows that are evaluated on.

    Raises:
        DataError: the split has none.
    """
    rows = evaluated_rows(config, getattr(dataset, split))
    if not rows:
        there = ", ".join(name for name in ("train", "val", "test") if getattr(dataset, name)) or "none"
        instead = "" if there == "none" else f"; --split names another than {split}"
        raise DataError(f"{dataset.called} has no {split} rows to evaluate on (splits with rows: {there}{instead}).")
    return rows


def _slices(predictions: Sequence[Prediction], values: Sequence[str], seed: int) -> dict[str, dict[str, float]]:
    """Rows, accuracy and its interval of the rows with each value, the most frequent first."""
    right, found = accuracy([p.correct for p in predictions]), dict[str, dict[str, float]]()
    for value, count in sorted(Counter(values).items(), key=lambda item: (-item[1], item[0]))[:MOST_VALUES]:
        chosen = [own == value for own in values]
        metric = among(right, chosen)
        own = interval_of(metric, predictions, seed)
        found[value] = {"rows": float(count), "acc": metric.value, **{k: own[k] for k in ("low", "high") if k in own}}
    return found


def tensors_sha256(folder: Path) -> str:
    """sha256 of an adapter's tensor file."""
    with open_regular(folder / TENSORS) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
