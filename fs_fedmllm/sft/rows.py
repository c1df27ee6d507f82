"""A data set in TRL's conversational form, made even: every row has ``images``, a prompt and a completion.

TRL looks at the first row to tell a vision data set from another, and takes ``images: []`` for a row without an image,
but neither a null nor a column that is not there; and of ``messages`` it trains on every token, the user's too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow.compute as pc
from datasets import Dataset, Features, Image, IterableDataset, List

from fs_fedmllm.data.conversations import PREFERENCE
from fs_fedmllm.errors import DataError

#: The column in which an exported row says what it shows: ``both``, ``image`` or ``text``.
PRESENCE = "presence"


def even_rows(rows: Any, what: str, *, vision: bool) -> Any:
    """A data set whose rows all have a prompt, a completion and, for a vision-language model, a list of images.

    Args:
        rows: a ``datasets.Dataset`` or ``IterableDataset`` in TRL's form: ``messages``, or ``prompt`` and
            ``completion``, with ``images``, ``image`` or neither; anything else is given back as it is.
        what: its name, for messages.
        vision: whether a processor, and not a tokenizer alone, will read it.

    Raises:
        DataError: a conversation does not end with an answer, or the rows are preferences.
    """
    if not isinstance(rows, Dataset | IterableDataset) or rows.column_names is None:
        return rows
    columns, table = set(rows.column_names), isinstance(rows, Dataset)
    if columns.issuperset(PREFERENCE):
        raise DataError(
            f"{what} has the columns chosen and rejected, preferences for TRL's DPOTrainer: FedMLLMTrainer learns "
            "right answers. Rename chosen to completion and remove rejected, or train with trl.DPOTrainer."
        )
    if vision and {"image", "images"} <= columns:
        raise DataError(f"{what} has a column image and a column images: give one of them.")
    told = "messages" in columns
    if vision and table and not told and "images" in columns and _is_even(rows):
        return rows
    if table and (vision or told):
        rows = _undecoded(rows)
    if told:
        rows = _answers_apart(rows, what)
    if not vision:
        return rows
    if "image" in columns:
        return _with_images(rows, lambda row: [] if row["image"] is None else [row["image"]], "image")
    if "images" in columns:
        return _with_images(rows, lambda row: [image for image in row["images"] or [] if image is not None])
    if table:
        return rows.add_column("images", [[]] * len(rows), feature=List(Image()))
    return _with_images(rows, lambda row: [])


def _undecoded(rows: Dataset) -> Dataset:
    """The same rows, whose pictures are not opened on the way: paths stay paths, and bytes stay bytes."""
    for name in {"image", "images"} & set(rows.column_names):
        feature = rows.features[name]
        inner = getattr(feature, "feature", feature)
        if isinstance(inner, Image) and inner.decode:
            plain = Image(mode=inner.mode, decode=False)
            rows = rows.cast_column(name, plain if feature is inner else List(plain))
    return rows


def _is_even(rows: Dataset) -> bool:
    """Whether every row has a list of images already, and no null in it."""
    inner = getattr(rows.features["images"], "feature", None)
    if not isinstance(inner, Image) or not inner.decode:
        return False
    batches = rows.select_columns(["images"]).with_format("arrow").iter(1000)
    return all(not column.null_count and not pc.list_flatten(column).null_count
               for column in (batch["images"] for batch in batches))  # fmt: skip


def _with_images(rows: Any, images_of: Any, drop: str = "") -> Any:
    if isinstance(rows, IterableDataset):
        return rows.map(lambda row: {"images": images_of(row)}, remove_columns=[drop] if drop else None)
    features = Features({**{k: v for k, v in rows.features.items() if k != drop}, "images": List(Image())})
    return rows.map(
        lambda row: {"images": images_of(row)},
        features=features,
        remove_columns=[drop] if drop else None,
        load_from_cache_file=False,
    )


def _answers_apart(rows: Any, what: str) -> Any:
    """``messages`` as a prompt and its completion, the last answer."""

    def split(row: Mapping[str, Any], index: int) -> dict[str, Any]:
        messages = row["messages"]
        if len(messages) < 2 or messages[-1]["role"] != "assistant":
            raise DataError(
                f"{what}, row {index}: the conversation does not end with an assistant's answer after a user's turn. "
                "Complete it, or leave the row out."
            )
        return {"prompt": messages[:-1], "completion": messages[-1:]}

    options: dict[str, Any] = {"with_indices": True, "remove_columns": ["messages"]}
    if isinstance(rows, Dataset):
        kept = {name: feature for name, feature in rows.features.items() if name != "messages"}
        turns = rows.features["messages"]
        options |= {
            "features": Features({**kept, "prompt": turns, "completion": turns}),
            "load_from_cache_file": False,
        }
    return rows.map(split, **options)


def missing_rate(rows: Any) -> float:
    """The larger of the shares of rows that lack an image and that lack a text; a text is taken to be there unless
    the column ``presence`` says ``image``.

    Args:
        rows: a ``datasets.Dataset`` as :func:`even_rows` makes it.

    Raises:
        DataError: the rows cannot be counted beforehand.
    """
    if not isinstance(rows, Dataset):
        raise DataError("The missing rate of a data set that is streamed is not known: give missing_rate.")
    if not len(rows):
        return 0.0
    without = len(rows)
    if "images" in rows.column_names:
        batches = rows.select_columns(["images"]).with_format("arrow").iter(1000)
        without -= sum(pc.sum(pc.greater(pc.list_value_length(batch["images"]), 0)).as_py() or 0 for batch in batches)
    no_text = sum(1 for shown in rows[PRESENCE] if shown == "image") if PRESENCE in rows.column_names else 0
    return max(without, no_text) / len(rows)
