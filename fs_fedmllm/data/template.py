"""Prompt templates: what a row is asked, for each presence case, original and augmented.

The grammar is that of the authors' released prompts (checked against 5,200 generated records)::

    instruction + basis + ".\\n" + [text + "\\n"] + question + "?\\nOptions:" + options + "\\n" + closing

The augmented ("modality-agnostic") variant is the prompt augmentation of FedMLLM, section 4.1.
:mod:`fs_fedmllm.data.template_file` reads templates.
"""

from __future__ import annotations

import string
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from fs_fedmllm.data.sample import Sample
from fs_fedmllm.errors import DataError

#: Options have letters unless a template says otherwise, so it can have at most this many.
LETTERS = string.ascii_uppercase


@dataclass(frozen=True)
class Case:
    """What changes with the modalities that a row shows."""

    basis: str
    question: str


@dataclass(frozen=True)
class Template:
    """The prompts of one data set.

    Attributes:
        name: file name without ``.yaml``.
        task: ``choice`` (one question, options) or ``vqa`` (the row asks its own question).
        metric: the number that the data set is judged by.
        options: the answers to choose from, in letter order; empty for ``vqa``.
        positive: index of the option whose probability is the score of the AUC.
        instruction: opening of a choice prompt.
        closing: end of a choice prompt.
        cases: variant -> presence case -> what changes.
        question: ``vqa``: what rows without a question of their own are asked; empty where they must have one.
        listed: whether a choice's prompt lists the options. Unlisted ones are learnt from the answers alone, and
            rows are shorter by so much.
        lettered: whether options have letters, in the prompt's list and in the answer. Without them an option's text
            is the whole answer, and is scored as a whole.
    """

    name: str
    task: str
    metric: str
    options: tuple[str, ...]
    positive: int
    instruction: str
    closing: str
    cases: Mapping[str, Mapping[str, Case]]
    question: str = ""
    listed: bool = True
    lettered: bool = True

    @property
    def auc_option(self) -> int | None:
        """The option whose probability is the score of the AUC; None where that is not the metric."""
        return self.positive if self.metric == "auc" else None

    @property
    def metrics(self) -> list[str]:
        """Accuracy, and the metric where it is another."""
        return ["acc"] if self.metric == "accuracy" else ["acc", self.metric]

    def answer(self, label: int) -> str:
        """What is to be written for an option: ``(A) name``, or without letters ``name``."""
        return f"({LETTERS[label]}) {self.options[label]}" if self.lettered else self.options[label].strip()

    def answer_of(self, sample: Sample) -> str:
        """What is to be written for a row: its option in this template's form, or its own answer.

        A data set's rows bring answers in the form of its own template, and a run may name another.
        """
        if self.task == "choice" and sample.label is not None and 0 <= sample.label < len(self.options):
            return self.answer(sample.label)
        return sample.answer

    def prompt(self, sample: Sample, variant: str = "original") -> str:
        """The user's turn as text, without any image placeholder (the chat template adds that).

        Args:
            sample: the row; its presence picks the case.
            variant: ``original`` or ``augmented``.

        Raises:
            DataError: a ``vqa`` row has no question.
        """
        case = self.cases[variant][sample.presence]
        if self.task == "vqa":
            if not sample.question:
                raise DataError(
                    f"{sample.source or sample.id}: the template {self.name!r} needs a question in every row."
                )
            lines = [sample.text] if sample.text else []
            return "\n".join([*lines, case.question.replace("{question}", sample.question)])
        options = "".join(f"\n{self.answer(i)}" for i in range(len(self.options)))
        shown = f"\nOptions:{options}" if self.listed else ""
        text = f"{sample.text}\n" if sample.text is not None else ""
        return f"{self.instruction}{case.basis}.\n{text}{case.question}?{shown}\n{self.closing}"

    def record_prompt(self, sample: Sample, variant: str = "original") -> str:
        """The prompt as the authors' record format stores it, with ``<image>\\n`` where there is an image."""
        return ("<image>\n" if sample.image is not None else "") + self.prompt(sample, variant)


def template_content(template: Template) -> dict[str, Any]:
    """What a template says, for digests: what it leaves out does not count, nor do its name and its place."""
    content = asdict(template)
    content.pop("name")
    if not template.question:  # of an earlier release, perhaps
        content.pop("question")
    for key in ("listed", "lettered"):
        if content[key]:
            content.pop(key)
    return content
