"""Options in words: likelihoods by hand, options that begin alike, and the label prior on a tree of tokens."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import types
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from short_runs import CONFIGS
from transformers.cache_utils import DynamicCache, DynamicSlidingWindowLayer, LinearAttentionLayer

from fs_fedmllm.algorithms.label_prior import LabelPriorClient, label_prior
from fs_fedmllm.cli import main
from fs_fedmllm.config import EvaluatorConfig
from fs_fedmllm.data.conversations import COMPLETION, conversation
from fs_fedmllm.data.labels import Options
from fs_fedmllm.data.records import record
from fs_fedmllm.data.template_file import load_template, template_dir
from fs_fedmllm.errors import ConfigError, DataError, ModelError
from fs_fedmllm.evaluation import option_scores
from fs_fedmllm.evaluation.evaluator import Evaluator
from fs_fedmllm.evaluation.options import OptionTokens, option_tokens, options_of, word_tokens
from fs_fedmllm.evaluation.parsing import parse_options
from fs_fedmllm.evaluation.token_tree import token_trees
from fs_fedmllm.evaluation.views import product_of_views
from fs_fedmllm.hub import settings
from fs_fedmllm.models import mllm
from fs_fedmllm.models.batch import Batch
from fs_fedmllm.models.encoding import Encoder
from fs_fedmllm.models.families import GENERIC
from fs_fedmllm.models.loader import TINY
from fs_fedmllm.models.mllm import MLLM
from fs_fedmllm.models.reading import Branches, Reading, shared_opening
from fs_fedmllm.rounds.option_shift import branchings, shifted_logits, task_loss_sum
from fs_fedmllm.rounds.trainer import UpdatePlan
from fs_fedmllm.runs.simulation import run
from fs_fedmllm.scenarios.federated_data import prepare_data
from fs_fedmllm.tools.adapters.opening import open_adapter
from fs_fedmllm.tools.adapters.predict import predict

END = 1
#: Three options of unlike length, of which the first begins the second.
NESTED = [[9, 2, END, 7], [9, 2, 5, 6, END, 7], [9, 8, END, 7]]


def tree() -> OptionTokens:
    return word_tokens(NESTED, {END}, ["a", "a b c", "d"], "T")


def test_a_whole_option_is_its_tokens_up_to_the_end() -> None:
    tokens = tree()
    assert tokens.prefix == (9,) and tokens.decisions == (2, 2, 8)
    assert tokens.sequences == [(2, END), (2, 5, 6, END), (8, END)]
    assert option_tokens([[5, 7, 1], [5, 8, 1]]).sequences == [(7,), (8,)]  # a letter decides alone


def test_options_that_are_tokenised_alike_are_refused() -> None:
    with pytest.raises(
        ModelError, match=r"T: options: 'a' and 'A' are the same tokens .* Rename one, or set lettered"
    ):
        word_tokens([[3, END], [4, END], [3, END]], {END}, ["a", "b", "A"], "T")
    with pytest.raises(ModelError, match="one is the other's beginning"):  # a template that writes no end
        word_tokens([[3, 4], [3]], {END}, ["a b", "a"], "T")


@pytest.fixture
def words(federation, monkeypatch):
    """An evaluator of options that begin alike, and rows, each with one modality, the other or both."""
    federation.mllm.adapter.load(
        {
            name: tensor + 0.02 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(1))
            for name, tensor in federation.initial_state().items()
        }
    )
    options = ("lower", "lower repair", "lower repair travel", *federation.data.template.options[3:])
    template = dataclasses.replace(federation.data.template, options=options, lettered=False)
    encoder = Encoder(federation.mllm, template, "original", federation.encoder.vision)
    chosen = federation.data.dataset.test[:6]
    rows = [r if i % 3 == 0 else r.showing(image=i % 3 == 1, text=i % 3 == 2) for i, r in enumerate(chosen)]
    return Evaluator(encoder, EvaluatorConfig()), rows


def by_hand(encoder: Encoder, row) -> np.ndarray:
    """Log-probabilities of a row's options from a pass of its own over the prompt and each option."""
    [asked], scores = encoder.encode([row]), []
    for option in range(len(encoder.template.options)):
        completion = encoder.completion(encoder.template.answer(option))
        end = next(i for i, token in enumerate(completion) if token in encoder.completions.stops) + 1
        whole = dataclasses.replace(asked, completion=completion[:end])
        batch = encoder.collate([whole], completions=True)
        with torch.no_grad():
            logits = encoder.mllm.last_logits(batch.inputs, batch.labels.shape[1])[0, :-1].double().log_softmax(-1)
        said = batch.labels[0, 1:]
        scores.append(sum(float(logits[i, token]) for i, token in enumerate(said.tolist()) if token >= 0))
    return np.array(scores) - np.logaddexp.reduce(scores)


def test_scores_are_the_models_own_probabilities_of_whole_options(words) -> None:
    evaluator, rows = words
    scores = evaluator.option_log_probs(rows)
    np.testing.assert_allclose(scores, [by_hand(evaluator.encoder, row) for row in rows], atol=5e-5)
    np.testing.assert_allclose(np.exp(scores).sum(axis=1), 1.0, atol=1e-9)
    assert evaluator.encoder.template.answer(1) == "lower repair"
    assert len(evaluator.encoder.encode([rows[0]])[0].completion) < len(evaluator.encoder.completion("(A) lower x"))


def test_a_prompt_is_read_once_and_what_options_share_as_well(words, monkeypatch) -> None:
    """Nine tokens are read behind it: lower, repair, travel, health; upper and its four."""
    evaluator, rows = words
    read, passes = [], []
    first, branches, more = MLLM.read, MLLM.branches, MLLM.go_on
    monkeypatch.setattr(
        MLLM, "read", lambda self, inputs, *a: read.append(len(inputs["input_ids"])) or first(self, inputs, *a)
    )
    monkeypatch.setattr(
        MLLM, "branches", lambda self, reading, own: passes.append([own.tokens]) or branches(self, reading, own)
    )
    together = evaluator.option_log_probs([*rows, *rows])
    assert sum(read) == len(rows)  # those that ask the same are asked once
    assert [[len(ids) for ids in said] for said in passes] == [[9]] * len(read)  # one pass for all options
    assert sum(len(sequence) - 1 for sequence in evaluator._options.sequences) > 9
    # A model that does not take them in one sequence: as rows of a batch, in a pass for each length.
    passes.clear(), read.clear()
    monkeypatch.setattr(MLLM, "takes_branches", lambda *_: False)
    monkeypatch.setattr(
        MLLM, "go_on", lambda self, reading, ids, *a: passes.append(ids) or more(self, reading, ids, *a)
    )
    np.testing.assert_allclose(evaluator.option_log_probs([*rows, *rows]), together, atol=5e-5)
    assert sum(read) == len(rows) and sum(ids.numel() for ids in passes) == 9 * len(rows)
    assert len(passes) == 3 * len(read) and len({ids.shape[1] for ids in passes}) == 1


def test_while_an_adapter_stays_loaded_nothing_is_asked_twice(words, monkeypatch) -> None:
    """A row that has no picture is asked the same by itself and in the slice of texts."""
    evaluator, rows = words
    read, first = [], MLLM.read
    monkeypatch.setattr(
        MLLM, "read", lambda self, inputs, *a: read.append(len(inputs["input_ids"])) or first(self, inputs, *a)
    )
    plain = [evaluator.predict(rows, shown)[1] for shown in ("both", "text")]
    asked = sum(read)
    read.clear()
    with evaluator.one_adapter():
        again = [evaluator.predict(rows, shown)[1] for shown in ("both", "text")]
    assert sum(read) == asked - sum(row.presence == "text" for row in rows) < asked
    for before, after in zip(plain, again, strict=True):
        for one, other in zip(before, after, strict=True):
            assert one.id == other.id and one.log_probs == pytest.approx(other.log_probs, abs=5e-5)
    read.clear()
    evaluator.option_log_probs(rows)  # another adapter may be loaded by now
    assert sum(read) == len(rows) and evaluator.option_log_probs([]).shape == (0, len(evaluator._options.decisions))


def test_what_texts_begin_with_alike_is_read_for_one_row(words, monkeypatch) -> None:
    evaluator, rows = words
    texts = [row.showing(image=False, text=True) for row in rows if row.text][:4]
    alone = np.concatenate([evaluator.option_log_probs([row]) for row in texts])
    encoded = evaluator.encoder.encode(texts)
    opening = next(
        i for i, tokens in enumerate(zip(*(e.prompt for e in encoded), strict=False)) if len(set(tokens)) > 1
    )
    assert 1 <= opening < mllm.OPENING and len({len(e.prompt) for e in encoded}) > 1  # some are padded behind it
    monkeypatch.setattr(mllm, "OPENING", 1)
    shapes, forward = [], type(evaluator.encoder.mllm.inner).forward
    inner = evaluator.encoder.mllm.inner
    monkeypatch.setattr(
        inner, "forward", lambda **given: shapes.append(tuple(given["input_ids"].shape)) or forward(inner, **given)
    )
    np.testing.assert_allclose(evaluator.option_log_probs(texts), alone, atol=5e-5)
    longest = max(len(e.prompt) for e in encoded) + len(evaluator._options.prefix)
    assert shapes == [(1, opening), (len(texts), longest - opening + 9)]
    shapes.clear()
    evaluator.option_log_probs(texts[:1])  # one row shares nothing
    assert len(shapes) == 2
    for shared, batch in ((2, [[0, 5, 6, 7], [5, 6, 8, 9]]), (1, [[0, 0, 5, 6], [5, 6, 5, 6]]), (0, [[5, 6], [6, 6]])):
        ids = torch.tensor(batch)
        assert shared_opening({"input_ids": ids, "attention_mask": (ids > 0).long()}) == shared
    assert shared_opening({"input_ids": ids, "attention_mask": ids, "pixel_values": ids}) == 0


@pytest.mark.parametrize("one_sequence", [True, False])
def test_what_a_pass_takes_is_bounded(words, monkeypatch, one_sequence: bool) -> None:
    """The same scores where a pass may take next to nothing: option by option, or branch by branch."""
    evaluator, rows = words
    whole, passes = evaluator.option_log_probs(rows), []
    monkeypatch.setattr(option_scores, "PASS_BYTES", 1)
    name = "branches" if one_sequence else "go_on"
    made = getattr(MLLM, name)
    monkeypatch.setattr(MLLM, name, lambda self, reading, ids, *a: passes.append(ids) or made(self, reading, ids, *a))
    if not one_sequence:
        monkeypatch.setattr(MLLM, "takes_branches", lambda *_: False)
    np.testing.assert_allclose(evaluator.option_log_probs(rows), whole, atol=5e-5)
    if one_sequence:
        assert max(len(own.tokens) for own in passes) == 3  # "lower repair travel", all but its end
    else:
        assert max(len(ids) for ids in passes) <= len(rows)


def test_a_cache_of_another_make_is_copied_whole(words, monkeypatch) -> None:
    """Nothing is known of it but that it can be copied: one branch after the other."""
    evaluator, rows = words
    whole = evaluator.option_log_probs(rows)
    monkeypatch.setattr(MLLM, "takes_branches", lambda *_: False)
    monkeypatch.setattr(Reading, "spreads", False)
    np.testing.assert_allclose(evaluator.option_log_probs(rows), whole, atol=5e-5)


def test_branches_are_one_sequence_only_where_every_layer_sees_all(words) -> None:
    evaluator, rows = words
    model = evaluator.encoder.mllm
    inputs = evaluator.encoder.collate(evaluator.encoder.encode(rows[:1]), completions=False).inputs
    with torch.no_grad():
        reading = model.read(inputs)
    assert model.takes_branches(reading, 9)
    assert not dataclasses.replace(model, family=GENERIC).takes_branches(reading, 9)  # not tested with it
    tokens = reading.mask.shape[1]
    for window, taken in ((tokens + 10, True), (tokens + 9, False)):
        sliding = Reading(reading.mask, DynamicCache(), reading.logits)
        sliding.cache.layers = [*reading.cache.layers, DynamicSlidingWindowLayer(sliding_window=window)]
        assert model.takes_branches(sliding, 9) is taken
    linear = Reading(reading.mask, DynamicCache(), reading.logits)
    linear.cache.layers = [*reading.cache.layers, LinearAttentionLayer()]
    assert not model.takes_branches(linear, 9)
    flash = types.SimpleNamespace(
        get_text_config=lambda: types.SimpleNamespace(_attn_implementation="flash_attention_2")
    )
    assert not reading.takes_branches(flash, 9)


def test_trees_of_options() -> None:
    sequences = tree().sequences
    [whole] = token_trees(sequences, 99)
    assert sorted(whole.members) == [0, 1, 2]
    assert whole.nodes == Branches((2, 5, 6, 8), (-1, 0, 1, -1), (0, 1, 2, 0))
    assert dict(zip(whole.members, whole.said, strict=True)) == {0: (0,), 1: (0, 1, 2), 2: (3,)}
    parts = list(token_trees(sequences, 1))  # what parts have in common is read for each of them
    assert [part.members for part in parts] == [(0,), (1,), (2,)] and parts[1].nodes.tokens == (2, 5, 6)


def test_a_model_that_keeps_nothing_is_refused(words, monkeypatch) -> None:
    evaluator, rows = words
    inner = evaluator.encoder.mllm.inner

    def forgetful(**inputs):
        output = type(inner).forward(inner, **inputs)
        output.past_key_values = None
        return output

    monkeypatch.setattr(inner, "forward", forgetful)
    with pytest.raises(ModelError, match=r"keeps no cache of a prompt, and options in words .* Set lettered: true"):
        evaluator.option_log_probs(rows)


def test_the_prior_on_a_tree_by_hand() -> None:
    """Rows 3, 1, 0 of "a", "a b c", "d": shares 3.1, 1.1 and 0.1 of 4.3; two of three options begin with token 2."""
    found = branchings(tree(), label_prior([3, 1, 0], 1.0))
    assert set(found) == {(9,), (9, 2)}
    assert found[9,].tokens == (2, 8) and found[9, 2].tokens == (END, 5)
    assert found[9,].shifts == pytest.approx([math.log(4.2 / 4.3 / (2 / 3)), math.log(0.1 / 4.3 / (1 / 3))])
    assert found[9, 2].shifts == pytest.approx([math.log(3.1 / 4.2 / 0.5), math.log(1.1 / 4.2 / 0.5)])
    total = [found[9,].shifts[0] + found[9, 2].shifts[i] for i in (0, 1)] + [found[9,].shifts[1]]
    assert total == pytest.approx(label_prior([3, 1, 0], 1.0))
    even = branchings(tree(), (0.0, 0.0, 0.0))
    assert {value for place in even.values() for value in place.shifts} == {0.0}  # to the bit
    flat = branchings(OptionTokens((9,), (2, 5)), (0.25, -1.5))
    assert flat[9,].shifts == (0.25, -1.5) and len(flat) == 1
    absent = branchings(tree(), (0.0, -1000.0, -2000.0))  # FedLC's margin of a label without rows
    assert absent[9, 2].shifts == pytest.approx([math.log(2), -1000 + math.log(2)])


def test_the_loss_of_words_by_hand() -> None:
    ignored, shift = -100, label_prior([3, 1, 0], 1.0)
    labels = torch.tensor([[ignored, 9, 2, 5, 6, END, 7], [ignored, ignored, ignored, 9, 8, END, 7]])
    logits = torch.randn(2, 7, 11, generator=torch.Generator().manual_seed(1))
    branch, wanted = branchings(tree(), shift), 0.0
    for row, (first, answer) in enumerate([(1, NESTED[1]), (3, NESTED[2])]):
        for place, token in enumerate(answer):
            own = logits[row, first + place - 1].clone()
            if place == 1:
                own[2], own[8] = own[2] + branch[9,].shifts[0], own[8] + branch[9,].shifts[1]
            if place == 2 and row == 0:
                own[END], own[5] = own[END] + branch[9, 2].shifts[0], own[5] + branch[9, 2].shifts[1]
            wanted -= float(F.log_softmax(own, dim=-1)[token])
    batch = Batch({}, labels)
    assert float(task_loss_sum(batch, logits, tree(), shift)) == pytest.approx(wanted, abs=1e-5)
    moved = (shifted_logits(logits, labels, tree(), shift) != logits).nonzero().tolist()
    assert moved == [[0, 1, 2], [0, 1, 8], [0, 2, END], [0, 2, 5], [1, 3, 2], [1, 3, 8]]
    assert UpdatePlan(batches=[[0]], lr=1.0, halves=[LabelPriorClient([4, 4, 4], 1.0)]).option_shift == ()


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ("head", 0), (" head and neck.", 1), ("A head and neck view", 1), ("head or chest", -1), ("A", -1),
        ("(A)", -1), ("Head", 0), ("", -1), ("the chest", 2),
    ],
)  # fmt: skip
def test_answers_are_read_in_words(answer: str, code: int) -> None:
    assert parse_options([answer], ["head", "head and neck", "chest"], "words").codes.tolist() == [code]


def test_letters_mean_nothing_where_options_have_none() -> None:
    lettered = load_template("digits_triage")
    plain = dataclasses.replace(lettered, lettered=False)
    assert Options.of(lettered).label({"label": "B"}, "f:1") == 1 == Options.of(plain).label({"label": 1}, "f:1")
    with pytest.raises(DataError, match=r"'B' is none of the options\. Give one of 0 = lower billing, 1 = lower"):
        Options.of(plain).label({"label": "B"}, "f:1")


@pytest.fixture
def named(tmp_path) -> str:
    """A template of the triage in words, for a data set whose own answers have letters."""
    raw = yaml.safe_load((template_dir() / "digits_triage.yaml").read_text())
    file = tmp_path / "words.yaml"
    file.write_text(yaml.safe_dump(raw | {"lettered": False, "closing": "The best answer is: "}, sort_keys=False))
    return str(file)


def test_a_profile_that_looks_for_letters_refuses_words(short_config, named: str) -> None:
    with pytest.raises(ConfigError, match=r"look for a letter in what is written, .* 'words' gives its options none"):
        prepare_data(short_config("cross_i3t7", "fedmllm.template", named, "fedmllm.profile", "upstream"))


def test_a_run_in_words(short_config, named: str) -> None:
    """A data set's rows learn the named template's answers; views and probabilities are there as with letters."""
    config = short_config(
        "cross_i3t7", "fedmllm.template", named, "fedmllm.label_prior", 1.0, "fedmllm.eval.slices", "ends",
        "fedmllm.sampler", "modality", "fedmllm.stand_ins.use", "auto", "fedmllm.eval.limit", 6,
    )  # fmt: skip
    results, written = run(config)
    assert results["refused"] == [] and {"joint", "product", "image", "text"} <= set(results["views"])
    assert results["evaluations"][-1]["val_loss"] > 0
    lines = (written.path / "predictions.jsonl").read_text().splitlines()
    assert len(lines) == 18 and all('"log_probs"' in line for line in lines)
    description = yaml.safe_load((written.path / "adapter" / "fedmllm.json").read_text())
    assert description["template"]["lettered"] is False
    opened = open_adapter(str(written.path / "adapter"))
    data = prepare_data(config)
    asked = [row for row in data.dataset.test if row.presence == "both"][:2]
    evaluator = Evaluator(Encoder(opened.mllm, data.template, "original", None), EvaluatorConfig())
    image, text = (evaluator.option_log_probs([r.showing(image=i, text=not i) for r in asked]) for i in (True, False))
    wanted = {"joint": evaluator.option_log_probs(asked), "product": product_of_views(image, text)}
    for combine, log_probs in wanted.items():
        for answer, own in zip(predict(opened, asked, combine=combine), np.exp(log_probs), strict=True):
            assert list(answer.probabilities) == list(data.template.options)
            assert list(answer.probabilities.values()) == pytest.approx(own, abs=1e-5)
    # What is written for others' tools has the same answers, and is read back.
    row = asked[0]
    said = data.template.options[row.label]
    assert row.answer.endswith(f") {said}") and record(row, data.template)["conversations"][1]["content"] == said
    assert conversation(row, data.template, "original")[COMPLETION] == [{"role": "assistant", "content": said}]


def test_options_of_an_encoder(words) -> None:
    evaluator, _ = words
    tokens = options_of(evaluator.encoder)
    stop = evaluator.encoder.completions.stops
    assert tokens is not None and all(s[-1] in stop and not set(s[:-1]) & set(stop) for s in tokens.sequences)


def test_data_check_names_options_that_the_tokenizer_makes_alike(named: str, tmp_path, capsys) -> None:
    """A tokenizer without capitals: two options differ in nothing else."""
    model = tmp_path / "model"
    shutil.copytree(TINY, model)
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    (model / "tokenizer.json").write_text(json.dumps(tokenizer | {"normalizer": {"type": "Lowercase"}}))
    raw = yaml.safe_load(Path(named).read_text())
    check = ["data", "check", str(CONFIGS / "cross_i3t7.yaml"), "--model", str(model), "fedmllm.template", named]
    assert main(check) == 0
    Path(named).write_text(yaml.safe_dump(raw | {"options": ["Upper health", *raw["options"][1:]]}, sort_keys=False))
    capsys.readouterr()
    assert main(check) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "The template 'words': options: 'Upper health' and 'upper health' are the same tokens" in said


def test_a_card_says_how_options_in_words_are_decided() -> None:
    assert settings.answers(None, "choice") == [f"- answers: {settings.SCORED}"]
    assert settings.answers(None, "choice", lettered=False) == [f"- answers: {settings.SCORED_IN_WORDS}"]
