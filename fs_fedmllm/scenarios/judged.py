"""Rows that a run is judged by: which of a split are evaluated, and whether prompts and metric fit them."""

from __future__ import annotations

from collections.abc import Sequence

from fs_fedmllm.config import Config
from fs_fedmllm.data.sample import Dataset, Sample
from fs_fedmllm.data.template import Template
from fs_fedmllm.data.template_file import load_template
from fs_fedmllm.errors import ConfigError, DataError


def evaluated_rows(config: Config, rows: Sequence[Sample]) -> Sequence[Sample]:
    """Rows of a split, thinned out evenly where ``fedmllm.eval.limit`` says so."""
    limit = config.fedmllm.eval.limit
    if not 0 < limit < len(rows):
        return rows
    return [rows[i * len(rows) // limit] for i in range(limit)]


def template_that_fits(named: str, dataset: Dataset, key: str = "fedmllm.template") -> Template:
    """The prompts of a data set; every row's label is one of their options.

    Args:
        named: name or path of a template; empty takes the data set's own.
        dataset: its rows.
        key: of the configuration, where it is named.

    Raises:
        ConfigError: there is no such template.
        DataError: a label is outside the template's options, or the data set's own template has more or fewer.
    """
    template = load_template(named or dataset.template)
    if template.task != "choice":
        return template
    own = load_template(dataset.template)
    if own.task == "choice" and len(own.options) != len(template.options):
        raise DataError(
            f"The template {template.name!r} has {len(template.options)} options, and that of the rows, {own.name!r}, "
            f"has {len(own.options)}: their labels would get other names. Name a template with the same options in "
            f"their order ({key})."
        )
    for row in (*dataset.train, *dataset.val, *dataset.test):
        if row.label is None or not 0 <= row.label < len(template.options):
            raise DataError(
                f"{row.source or row.id}: the label {row.label!r} is outside the {len(template.options)} options of "
                f"the template {template.name!r}. Correct the row or name another template ({key})."
            )
    return template


def check_form(config: Config, template: Template) -> None:
    """The profile can read a choice's answers.

    Raises:
        ConfigError: it reads letters, and the options have none.
    """
    switches = config.switches
    if template.lettered or switches["decision"] != "sampled_text" or switches["unparsable"] != "class_2":
        return
    raise ConfigError(
        f"The switches decision sampled_text and unparsable class_2 (profile {config.fedmllm.profile}) look for a "
        f"letter in what is written, as the authors' scripts do, and the template {template.name!r} gives its options "
        "none (lettered: false). Set lettered: true there, or the switch unparsable to wrong, which reads words."
    )


def check_classes(config: Config, rows: Sequence[Sample], template: Template, of: str) -> None:
    """The metric of a template can be computed on the rows of a split.

    Args:
        config: of the run.
        rows: of the split.
        template: its prompts.
        of: what to call the rows, such as ``val rows of digits_match``.

    Raises:
        DataError: the AUC is asked of rows of one class.
    """
    judged = evaluated_rows(config, rows) if template.metric == "auc" else ()
    labels = {row.label for row in judged}
    if len(labels) == 1:
        (label,) = labels
        raise DataError(
            f"The {of} that are evaluated ({len(judged):,}) all have the label "
            f"{template.options[label or 0]!r}, and the AUC, the metric of the template {template.name!r}, needs "
            "two. Give rows of both, set the template's metric to accuracy, or raise fedmllm.eval.limit if set."
        )
