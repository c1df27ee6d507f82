"""Ask an adapter: one image and/or text, or a file of them; options with probabilities, or a written answer."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fs_fedmllm.config import EvaluatorConfig
from fs_fedmllm.data.columns import UnreadColumns, missing, optional
from fs_fedmllm.data.embedded import cached_images, image_path
from fs_fedmllm.data.image_paths import ImageFolder
from fs_fedmllm.data.sample import Sample
from fs_fedmllm.data.shapes import check_shapes
from fs_fedmllm.data.short_templates import CASES, VARIANTS
from fs_fedmllm.data.template import Case, Template
from fs_fedmllm.data.template_file import load_template
from fs_fedmllm.errors import DataError
from fs_fedmllm.evaluation.evaluator import Evaluator
from fs_fedmllm.evaluation.views import product_of_views
from fs_fedmllm.models.encoding import Encoder
from fs_fedmllm.models.lengths import row_lengths
from fs_fedmllm.text_columns import lone_surrogate
from fs_fedmllm.tools.adapters.opening import Opened
from fs_fedmllm.tools.adapters.row_files import RowForm

#: Rows whose columns are called as ours.
PLAIN = RowForm()
_WORDS = ("text", "question")


@dataclass(frozen=True)
class Answer:
    """What the model says of a row.

    Attributes:
        id: the row's.
        shown: which modalities it had.
        answer: the likeliest option, or the generated text.
        probabilities: option -> probability among the options; None for a generated answer.
    """

    id: str
    shown: str
    answer: str
    probabilities: dict[str, float] | None


def read_rows(file: Path, form: RowForm = PLAIN) -> list[Sample]:
    """Rows of a file: ``image`` (a path beside the file, or embedded) or ``images``, ``text``, ``question``, ``id``.

    Args:
        file: CSV, TSV, JSON Lines, JSON or Parquet.
        form: how its columns are called.

    Raises:
        DataError: a line is no mapping, shows nothing, names an image that is not there, or holds what looks like one
            of these under another name; told with its line.
    """
    images, store = ImageFolder(form.images(file), follow=form.follow_links or None), cached_images()
    unread = UnreadColumns(form.columns.values(), {})
    rows = []

    def renaming(mapping: Mapping[str, str]) -> str:
        return f"Rename it: {', '.join(f'{column} to {name}' for name, column in mapping.items())}."

    for number, (where, original, raw) in enumerate(form.rows(file), start=1):
        unread.note(original, raw)
        fault = unread.fault(where, renaming)  # a row that shows nothing is the lesser thing to say
        if fault is not None:
            raise fault
        image, _ = image_path(raw.get("image"), where, images, store)
        name = number if missing(raw.get("id")) else raw["id"]
        text, question = (optional(raw, field, where) for field in _WORDS)
        rows.append(_row(str(name), image, text, question, where))
    if not rows:
        raise DataError(f"{file} has no rows.")
    return rows


def one_row(image: str, text: str, question: str) -> Sample:
    """The row of the command line.

    Raises:
        DataError: there is no such image, or nothing to show.
    """
    if image and not Path(image).is_file():
        raise DataError(f"--image: {image} is not a file.")
    for option, value in zip(_WORDS, (text, question), strict=True):
        if lone_surrogate(value):
            raise DataError(f"--{option} holds bytes that are not UTF-8 text. Write it in UTF-8, or use --file.")
    said, asked = (None if missing(value) else value for value in (text, question))
    return _row("1", str(Path(image).resolve()) if image else None, said, asked, "the command line")


def _row(name: str, image: str | None, text: str | None, question: str | None, where: str) -> Sample:
    if image is None and text is None and question is None:
        raise DataError(f"{where} shows nothing: give an image, a text or a question.")
    return Sample(id=name, image=image, text=text, answer="", question=question, source=where)


def free_question(template: Template | None) -> Template:
    """A template that asks the row's own question, for rows that bring one."""
    if template is not None and template.task == "vqa":
        return template
    ask = {case: Case("", "{question}") for case in CASES}
    return Template("question", "vqa", "accuracy", (), 1, "", "", {variant: ask for variant in VARIANTS})


def _shares(evaluator: Evaluator, rows: Sequence[Sample], combine: str) -> np.ndarray:
    """(rows, options) probabilities; where it is asked, of rows with both modalities by the product of their views."""
    scores = evaluator.option_log_probs(rows)
    pairs = [i for i, row in enumerate(rows) if row.presence == "both"] if combine == "product" else []
    if pairs:
        image, text = (
            evaluator.option_log_probs([rows[i].showing(image=pictured, text=not pictured) for i in pairs])
            for pictured in (True, False)
        )
        scores[pairs] = product_of_views(image, text)
    return np.exp(scores)


def predict(
    opened: Opened,
    rows: Sequence[Sample],
    *,
    template: str = "",
    prompt: str = "",
    batch_size: int = 16,
    combine: str = "",
) -> list[Answer]:
    """Answers, in the order of the rows. Rows with a question of their own are answered in writing.

    Args:
        opened: the adapter.
        rows: what to ask about.
        template: name or path of a template; empty takes the training's.
        prompt: ``original`` or ``augmented``; empty takes the training's.
        batch_size: rows in one forward pass.
        combine: ``joint`` or ``product``; empty takes the training's.

    Raises:
        DataError: there is no template, and a row has no question; an image cannot be read, or is too long; a product
            of views is asked of a row that is answered in writing.
    """
    check_shapes(rows, opened.mllm.family.widest, opened.mllm.family.name)
    known = opened.description
    chosen = load_template(template) if template else known.template if known is not None else None
    if chosen is not None and chosen.question:  # what rows without a question of their own are asked
        rows = [
            row if row.question is not None else dataclasses.replace(row, question=chosen.question) for row in rows
        ]
    variant = prompt or (known.prompt if known is not None else "original")
    tokens = known.max_new_tokens if known is not None else EvaluatorConfig().max_new_tokens
    config = EvaluatorConfig(batch_size=batch_size, max_new_tokens=tokens)
    lengths = row_lengths(opened.mllm, known.max_length if known is not None else -1, tokens)
    asked = [i for i, row in enumerate(rows) if row.question is not None]
    others = [i for i in range(len(rows)) if i not in set(asked)]
    if others and (chosen is None or chosen.task == "vqa"):
        raise DataError(
            f"{rows[others[0]].source} has no question, and the adapter's template asks the row's own: give "
            "--question, or --template with options."
        )
    if asked and combine == "product":
        raise DataError(
            f"{rows[asked[0]].source} has a question of its own, which is answered in writing: there are no options "
            "whose probabilities could be multiplied. Leave --combine product out, or the question."
        )
    answers: dict[int, Answer] = {}
    cut = 0
    if asked:
        # A text-only row keeps its text; a question alone is asked as it is.
        evaluator = Evaluator(Encoder(opened.mllm, free_question(chosen), variant, None, lengths), config)
        said = evaluator.generate([rows[i] for i in asked])
        cut += sum(row.shortened for row in evaluator.encoder.encode([rows[i] for i in asked], answered=False))
        answers |= {i: Answer(rows[i].id, rows[i].presence, text, None) for i, text in zip(asked, said, strict=True)}
    if others:
        assert chosen is not None
        evaluator = Evaluator(Encoder(opened.mllm, chosen, variant, None, lengths), config)
        # The completion plays no part in scoring; any option's will do.
        scored = [dataclasses.replace(rows[i], answer=chosen.answer(0), label=0) for i in others]
        shares = _shares(evaluator, scored, combine or (known.combine if known is not None else "joint"))
        cut += sum(row.shortened for row in evaluator.encoder.encode(scored))
        for i, share in zip(others, shares, strict=True):
            probabilities = {name: float(p) for name, p in zip(chosen.options, share, strict=True)}
            best = max(probabilities, key=lambda name: probabilities[name])
            answers[i] = Answer(rows[i].id, rows[i].presence, best, probabilities)
    if cut:
        logging.getLogger("fs_fedmllm").warning(
            "Rows are longer than %d tokens, and their texts are shortened: %d rows.", lengths.limit, cut
        )
    return [answers[i] for i in range(len(rows))]
