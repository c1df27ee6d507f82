"""A row that is too long loses the end of its text, then of its question; its image, options and answer stay."""

from __future__ import annotations

import dataclasses
import json
import logging

import pytest
from PIL import Image

from fs_fedmllm.config import ModelOptions
from fs_fedmllm.data.sample import Sample
from fs_fedmllm.data.template_file import load_template
from fs_fedmllm.errors import ConfigError, DataError
from fs_fedmllm.models.encoding import Encoder
from fs_fedmllm.models.lengths import PAPER, Lengths, row_lengths
from fs_fedmllm.models.loader import load_mllm
from fs_fedmllm.runs.simulation import run
from fs_fedmllm.tools.adapters.opening import open_adapter
from fs_fedmllm.tools.adapters.predict import free_question, predict

TEMPLATE = load_template("digits_triage")
LONG = "the knee aches since monday " * 60


@pytest.fixture(scope="module")
def mllm():
    return load_mllm(ModelOptions())


@pytest.fixture
def picture(tmp_path) -> str:
    Image.linear_gradient("L").resize((32, 32)).save(tmp_path / "p.png")
    return str(tmp_path / "p.png")


def row(text, image=None, label=0, **named) -> Sample:
    return Sample("1", image, text, TEMPLATE.answer(label), label=label, source="rows.jsonl:7", **named)


def encoder(mllm, limit=-1, template=TEMPLATE, new_tokens=16) -> Encoder:
    return Encoder(mllm, template, "original", None, row_lengths(mllm, limit, new_tokens))


def test_the_default_is_the_smaller_of_the_papers_and_the_models(mllm, monkeypatch) -> None:
    assert row_lengths(mllm) == Lengths(512, 512, 16)
    monkeypatch.setattr(mllm.inner.config.get_text_config(), "max_position_embeddings", 32768)
    assert row_lengths(mllm).limit == PAPER
    monkeypatch.setattr(mllm.inner.config.get_text_config(), "max_position_embeddings", 0)
    assert row_lengths(mllm) == Lengths(PAPER, 0, 16)
    monkeypatch.undo()
    assert row_lengths(mllm, 0).limit == 0 and row_lengths(mllm, 512).limit == 512
    with pytest.raises(ConfigError, match=r"max_length is 513, but the model has 512 positions: use at most that"):
        row_lengths(mllm, 513)


@pytest.mark.parametrize("limit", [230, 400, -1])
@pytest.mark.parametrize("pictured", [False, True])
def test_the_text_is_cut_and_everything_else_stays(mllm, picture, limit, pictured) -> None:
    ours = encoder(mllm, limit)
    most = ours.lengths.limit
    long, short = ours.encode([row(LONG, picture if pictured else None), row("kn", picture if pictured else None)])
    assert long.shortened and not short.shortened
    options = max(len(ours.completion(TEMPLATE.answer(i))) for i in range(8))
    assert most - 12 < len(long.prompt) + options <= most
    # A beginning of the text, and after it what every prompt has.
    words, other = (mllm.tokenizer.decode(found.prompt) for found in (long, short))
    before, after = other.split("kn", 1) if other.count("kn") == 1 else other.split("\nkn\n", 1)
    assert words.startswith(before.rstrip("\n")) and words.endswith(after)
    kept = words[len(before.rstrip("\n")) : len(words) - len(after)].strip()
    assert kept and LONG.startswith(kept)
    image = mllm.processor.image_token_id
    assert long.prompt.count(image) == short.prompt.count(image)
    assert long.completion == short.completion


def test_the_cut_does_not_tell_the_answer(mllm) -> None:
    ours = encoder(mllm, 250)
    assert len({ours.encode([row(LONG, label=label)])[0].prompt for label in range(8)}) == 1
    # What is to be written is not known when it is written, so a long reference takes nothing from the prompt.
    free = encoder(mllm, 250, free_question(None))
    rows = [dataclasses.replace(row(LONG, question="what is it?"), answer=answer) for answer in ("a", "knee " * 40)]
    asked = free.encode(rows, answered=False)
    assert asked[0].prompt == asked[1].prompt and len(asked[0].prompt) <= 250 - 16
    trained = free.encode(rows)
    assert all(len(found.prompt) + len(found.completion) <= 250 for found in trained)
    assert trained[0].prompt == asked[0].prompt and len(trained[1].prompt) < len(asked[1].prompt)


def test_a_question_is_cut_only_after_the_text(mllm) -> None:
    free = encoder(mllm, 120, free_question(None))
    (found,) = free.encode([row(LONG, question="where is the pain?")])
    assert "where is the pain?" in mllm.tokenizer.decode(found.prompt) and found.shortened
    (found,) = free.encode([row(LONG, question=LONG)])
    words = mllm.tokenizer.decode(found.prompt)
    assert len(found.prompt) <= 120 - 16 and "the knee aches" in words and found.shortened
    assert free.encode([row(None, question=LONG)])[0].shortened


def test_a_row_that_does_not_fit_without_its_text_is_refused(mllm, picture) -> None:
    told = r"rows.jsonl:7: without its text the row still takes \d+ tokens .* may have 10 .*Raise .* to at most 512"
    with pytest.raises(DataError, match=told):
        encoder(mllm, 10).encode([row("short", picture)])
    free = encoder(mllm, -1, free_question(None))
    with pytest.raises(DataError, match=r"rows.jsonl:7.*shorten the answer or the options, or remove the row"):
        free.encode([dataclasses.replace(row("t", question="q?"), answer="knee " * 600)])
    # Without a limit nothing is shortened, and what is beyond the model's positions is refused.
    assert not encoder(mllm, 0).encode([row("the knee aches")])[0].shortened
    with pytest.raises(DataError, match=r"rows.jsonl:7: the row takes \d+ tokens .* 512 positions. Set .* to -1"):
        encoder(mllm, 0).encode([row(LONG)])


def test_what_is_shortened_is_no_warning_of_the_tokenizers(mllm, caplog, monkeypatch) -> None:
    from transformers.utils import logging as hf_logging

    monkeypatch.setattr(hf_logging.get_logger("transformers"), "propagate", True)
    monkeypatch.setattr("fs_fedmllm.models.loader._LOADED", {})
    encoder(load_mllm(ModelOptions())).encode([row(LONG), row("<image> " * 400)])
    assert "Token indices sequence length" not in caplog.text


def test_a_text_of_a_million_letters_and_one_of_hidden_pieces(mllm) -> None:
    ours = encoder(mllm)
    for text in ("knee " * 200_000, "<image>" * 3000, "\u4e2d\U0001f600" * 3000, "\ufdfa" * 400):
        (found,) = ours.encode([row(text)])
        assert found.shortened and 490 < len(found.prompt) <= 512
        assert mllm.processor.image_token_id not in found.prompt


def test_counting_reads_no_row_that_cannot_be_long(mllm, picture, monkeypatch) -> None:
    ours = encoder(mllm)
    encoded = []
    encode = ours.encode
    monkeypatch.setattr(ours, "encode", lambda rows: [encoded.append(rows[0].text), encode(rows)][1])
    rows = [row("short", picture), row(LONG), row(LONG, picture), row(None, picture)]
    assert ours.count_shortened(rows) == 2 and encoded == [LONG, LONG]
    assert encoder(mllm, 0).count_shortened(rows[:1]) == 0


@pytest.mark.parametrize("changes", [False, True])
def test_a_template_that_writes_a_text_as_it_is_is_rendered_once(mllm, picture, monkeypatch, changes) -> None:
    """Not for each of a data set's rows, unless what it does to a text could make it longer."""
    ours, chats = encoder(mllm), []
    chat = ours._chat

    def watched(text: str, image: bool) -> str:
        chats.append(text)
        return chat(text.replace("<", "&lt;") if changes else text, image)

    monkeypatch.setattr(ours, "_chat", watched)
    rows = [row(f"item {i} of {changes}") for i in range(20)] + [row(f"{changes}", picture)]
    assert not any(ours._may_be_long(each) for each in rows)
    # Once without an image, and once with one.
    assert len(chats) > len(rows) if changes else len(chats) == 2


def test_a_run_says_how_many_rows_it_shortens(short_config, tmp_path, caplog) -> None:
    rows = []
    for i in range(24):
        Image.new("L", (32, 32), 9 * i).save(tmp_path / f"{i}.png")
        rows.append({"id": i, "image": f"{i}.png", "text": LONG if i in (0, 1, 2, 7) else f"fix item {i}",
                     "label": i // 4 % 8, "split": ("train", "train", "val", "test")[i % 4]})  # fmt: skip
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(line) + "\n" for line in rows))
    words = (
        *("data.type", "own", "data.root", tmp_path, "fedmllm.data.template", "digits_triage"),
        *("federate.client_num", 2, "federate.sample_client_num", 2, "federate.total_round_num", 1),
        *("data.splitter", "fedmllm_aligned", "data.splitter_args", "[{alpha: 5.0}]"),
    )
    with caplog.at_level(logging.WARNING, "fs_fedmllm"):
        results, written = run(short_config("cross_i3t7", *words))
    assert results["shortened_rows"] == {"max_length": 512, "train": 2, "val": 1, "test": 1}
    assert json.loads((written.path / "results.json").read_text())["shortened_rows"] == results["shortened_rows"]
    told = [record.getMessage() for record in caplog.records if "shortened" in record.getMessage()]
    assert told == ["Rows are longer than 512 tokens (fedmllm.train.max_length), and their texts are shortened: "
                    "2 train, 1 val, 1 test rows."]  # fmt: skip
    # predict shortens as the training did.
    opened = open_adapter(str(written.path / "adapter"))
    assert opened.description is not None and opened.description.max_length == -1
    caplog.clear()
    answers = predict(opened, [row(LONG), row("short")])
    assert len(answers) == 2 and "shortened: 1 rows" in caplog.text
    # A row that cannot be made to fit ends the run before its folder is there.
    with pytest.raises(DataError, match=r"data.jsonl.*fedmllm.train.max_length"):
        run(short_config("cross_i3t7", *words, "fedmllm.train.max_length", 10, "expname", "never"))
    assert not (tmp_path / "exp" / "never" / "metrics.jsonl").exists()
