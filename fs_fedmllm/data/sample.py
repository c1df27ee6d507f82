"""The unit of data: one question about an image, a text, or both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

MODALITIES = ("image", "text")
#: What rows with a presence do, for sentences.
SHOWS = {
    "both": "show both modalities",
    "image": "show an image only",
    "text": "show a text only",
    "neither": "show neither",
}
#: What a row can show, in the order of tables.
CASES = tuple(SHOWS)


@dataclass(frozen=True, slots=True)
class Sample:
    """One row. A missing modality is a fact of the row (None), never a blank image or an empty text.

    Attributes:
        id: unique within its split.
        image: absolute path of the image file, or None if the row has, or may show, no image.
        text: the text modality (a tweet, a meme's caption), or None.
        answer: the completion that the model is trained to give, e.g. ``(A) not-hateful``.
        question: the row's own question (visual question answering); None where the template asks
            one question of every row.
        label: index of the answer among the options; None for open answers.
        kind: slice of the evaluation that the row belongs to, such as ``open`` or ``closed``.
        keys: values that rows can be grouped by (tweet, disease, user, data type).
        source: where the row comes from, ``file:line``, for error messages.
    """

    id: str
    image: str | None
    text: str | None
    answer: str
    question: str | None = None
    label: int | None = None
    kind: str = ""
    keys: Mapping[str, str] = field(default_factory=dict)
    source: str = ""

    @property
    def presence(self) -> str:
        """Which modalities the row shows: ``both``, ``image``, ``text`` or ``neither``."""
        if self.image is not None:
            return "both" if self.text is not None else "image"
        return "text" if self.text is not None else "neither"

    def showing(self, *, image: bool, text: bool) -> Sample:
        """This row with only the named modalities left; it never gains one."""
        return replace(self, image=self.image if image else None, text=self.text if text else None)


@dataclass(frozen=True)
class Dataset:
    """A data set as an adapter reads it, before any scenario.

    Attributes:
        name: the value of ``data.type`` that selected it.
        template: name of the prompt template (a file of ``data_templates/``, without ``.yaml``).
        train: rows that a scenario distributes over the clients; may be empty (zero-shot sets).
        val: rows for choosing the best round; may be empty.
        test: rows for reporting; no scenario takes a modality from them.
        warnings: what the adapter noticed and the user should read, one sentence each.
        fingerprint: sha256 of the source files, for the manifest.
        title: what results, plots and the model card call it; empty for ``name``.
    """

    name: str
    template: str
    train: Sequence[Sample]
    val: Sequence[Sample]
    test: Sequence[Sample]
    warnings: tuple[str, ...] = ()
    fingerprint: str = ""
    title: str = ""

    @property
    def called(self) -> str:
        """What results, plots and the model card call it."""
        return self.title or self.name
