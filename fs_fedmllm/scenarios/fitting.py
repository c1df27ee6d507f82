"""Whether configuration and rows fit each other: prompts, the metric that picks the best round, stand-ins."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from fs_fedmllm.algorithms import REGULARIZERS
from fs_fedmllm.config import Config
from fs_fedmllm.config.metric_paths import named_metrics
from fs_fedmllm.config.schema import SPLITS
from fs_fedmllm.data.sample import Dataset, Sample
from fs_fedmllm.data.template import Template
from fs_fedmllm.errors import ConfigError
from fs_fedmllm.scenarios.judged import check_classes, check_form, evaluated_rows, template_that_fits
from fs_fedmllm.scenarios.reading import template_of


def fitting_template(config: Config, dataset: Dataset) -> Template:
    """The prompts of the run's own data set; every row's label is one of their options.

    Raises:
        ConfigError: there is no such template, it has no options for ``fedmllm.label_prior``, or its options have no
            letters and the profile looks for them.
        DataError: a label is outside the template's options.
    """
    template = template_that_fits(template_of(config, dataset), dataset)
    if template.task == "choice":
        check_form(config, template)
        return template
    if config.fedmllm.label_prior:
        raise ConfigError(
            f"fedmllm.label_prior is {config.fedmllm.label_prior:g}, and the answers of {dataset.name} (template "
            f"{template.name!r}) are open: they have no options whose shares at a client could be its prior. Set "
            "it to 0."
        )
    kind = config.fedmllm.regularizer.type
    if REGULARIZERS[kind].shifts_options:
        raise ConfigError(
            f"fedmllm.regularizer.type is {kind}, and the answers of {dataset.name} (template {template.name!r}) are "
            "open: they have no options whose logits to calibrate. Use another."
        )
    if config.fedmllm.predict.combine != "joint":
        raise ConfigError(
            f"fedmllm.predict.combine is {config.fedmllm.predict.combine}, and the answers of {dataset.name} "
            f"(template {template.name!r}) are open: they have no options whose probabilities to multiply. Set it to "
            "joint."
        )
    if config.fedmllm.stand_ins.use != "off":
        raise ConfigError(
            f"fedmllm.stand_ins.use is {config.fedmllm.stand_ins.use}, and the answers of {dataset.name} "
            f"(template {template.name!r}) are open: whether a modality alone decides them, as its guard "
            "asks, has no meaning there, and nobody has tried it. Set it to off."
        )
    return template


#: What picks the best round where there are no validation rows to pick it by: nothing, as in the paper.
LAST_ROUND = "last round"


def best_metric(config: Config, dataset: Dataset) -> str:
    """The metric that picks the best round: the configuration's, or ``LAST_ROUND`` where it is one of validation rows
    and the data set has none (the paper's own layout of Hateful Memes)."""
    name = config.eval.best_res_update_round_wise_key
    return LAST_ROUND if name.startswith("val_") and not dataset.val else name


def check_best(config: Config, dataset: Dataset, template: Template) -> None:
    """The metrics of a run must be ones that the rows allow: the task's own, and the one that picks the best round.

    Raises:
        ConfigError: no evaluation has the metric that picks the best round.
        DataError: the AUC is asked of rows of one class.
    """
    for split in SPLITS:
        check_classes(config, getattr(dataset, split), template, f"{split} rows of {dataset.name}")
    name = config.eval.best_res_update_round_wise_key
    part, _, metric = name.partition("_")
    rows: Sequence[Sample] = evaluated_rows(config, getattr(dataset, part))
    if best_metric(config, dataset) == LAST_ROUND:
        logging.getLogger("fs_fedmllm").warning(
            "%s has no validation rows, so eval.best_res_update_round_wise_key %s picks no round: the last round's "
            "figures are the run's, as in the paper.",
            dataset.called,
            name,
        )
        rows = evaluated_rows(config, dataset.test)
    sliced = metric.startswith(("image_", "text_"))
    if sliced and (part == "val" or not any(row.presence == "both" for row in rows)):
        why = "only test rows are" if part == "val" else "none of them has both"
        raise ConfigError(
            f"eval.best_res_update_round_wise_key is {name!r}, which shows {part} rows with one modality, and {why}. "
            f"Use {part}_{metric.partition('_')[2]}."
        )
    if not rows:
        raise ConfigError(
            f"eval.best_res_update_round_wise_key is {name!r}, but {dataset.name} has no {part} rows; use a metric of "
            "its val rows."
        )
    if template.task == "choice":
        sampled = config.switches["decision"] == "sampled_text"
        known = {"acc", "macro_f1", "weighted_f1"} | ({"unparsable"} if sampled else {"loss"})
        known |= {"auc", "auc_hard"} if template.metric == "auc" else set()
    else:
        known = {"acc", "loss"} | {f"{row.kind}_acc" for row in rows if row.kind}
    known |= set(named_metrics(config.fedmllm.eval.metrics))
    if metric.removeprefix("image_").removeprefix("text_") not in known:
        raise ConfigError(
            f"eval.best_res_update_round_wise_key is {name!r}, but an evaluation of {dataset.name} has "
            f"{', '.join(sorted(known))}."
        )


def complete_validation_rows(config: Config, dataset: Dataset) -> list[Sample]:
    """The validation rows that are evaluated and show both modalities."""
    return [row for row in evaluated_rows(config, dataset.val) if row.presence == "both"]


def check_stand_ins(config: Config, dataset: Dataset) -> None:
    """The guard of stand-ins has rows to ask.

    Raises:
        ConfigError: it has none.
    """
    chosen = config.fedmllm.stand_ins
    if chosen.use != "off" and chosen.guard == "validation" and not complete_validation_rows(config, dataset):
        raise ConfigError(
            f"fedmllm.stand_ins.guard is validation, and {dataset.called} has no validation row at the server that "
            "shows both modalities, so nothing can say whether stand-ins do harm. Give it such rows, or set "
            "fedmllm.stand_ins.guard to none (nothing then watches them) or use to off."
        )
