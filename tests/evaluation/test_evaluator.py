"""Forced choice: the batched pass gives the scores of one row at a time, and the decision of the whole completion."""

import dataclasses

import numpy as np
import pytest
import torch

from fs_fedmllm.config import EvaluatorConfig
from fs_fedmllm.errors import ModelError
from fs_fedmllm.evaluation.evaluator import Evaluator
from fs_fedmllm.evaluation.options import option_tokens


@pytest.fixture
def rows(federation):
    federation.mllm.adapter.load(federation.initial_state())
    chosen = federation.data.dataset.test[:9]
    return [r if i % 3 == 0 else r.showing(image=i % 3 == 1, text=i % 3 == 2) for i, r in enumerate(chosen)]


def test_batched_scores_are_those_of_single_rows(federation, rows) -> None:
    together = federation.evaluator.option_log_probs(rows)
    alone = np.concatenate([federation.evaluator.option_log_probs([row]) for row in rows])
    np.testing.assert_allclose(together, alone, atol=2e-5)
    np.testing.assert_allclose(np.exp(together).sum(axis=1), 1.0, atol=1e-9)


def test_scores_are_the_models_own_probabilities(federation, rows) -> None:
    """Against a plain forward pass over prompt and each option's completion, up to the deciding token."""
    encoder, template = federation.encoder, federation.data.template
    row = next(r for r in rows if r.image is None)
    prompt = encoder.encode([row])[0].prompt
    scores = []
    for label in range(len(template.options)):
        completion = encoder.completion(template.answer(label))
        ids = torch.tensor([[*prompt, *completion]])
        with torch.no_grad():
            logits = federation.mllm.inner(input_ids=ids).logits[0].double().log_softmax(-1)
        at = len(prompt)
        scores.append(float(logits[at, completion[1]]))  # "(" is forced, the letter decides
    expected = np.array(scores) - np.logaddexp.reduce(scores)
    np.testing.assert_allclose(federation.evaluator.option_log_probs([row])[0], expected, atol=1e-5)


def test_rows_that_ask_the_same_are_asked_once(federation, rows, monkeypatch) -> None:
    asked, forward = [], type(federation.mllm).last_logits

    def counted(self, inputs, columns):
        asked.append(len(inputs["input_ids"]))
        return forward(self, inputs, columns)

    monkeypatch.setattr(type(federation.mllm), "last_logits", counted)
    other = [dataclasses.replace(row, answer="(A) another") for row in reversed(rows)]
    scores = federation.evaluator.option_log_probs([*rows, *other])
    assert sum(asked) == len(rows)
    np.testing.assert_array_equal(scores[len(rows) :][::-1], scores[: len(rows)])
    np.testing.assert_array_equal(scores[: len(rows)], federation.evaluator.option_log_probs(rows))


def test_the_head_is_given_one_block_of_memory(federation, rows) -> None:
    given = []
    head = federation.mllm.inner.get_output_embeddings()
    handle = head.register_forward_pre_hook(lambda module, inputs: given.append(inputs[0]))
    try:
        batch = federation.encoder.collate(federation.encoder.encode(rows), completions=True)
        columns = batch.labels.shape[1]
        with torch.no_grad():
            last = federation.mllm.last_logits(batch.inputs, columns)
            whole = federation.mllm.inner(**batch.inputs, use_cache=False).logits
    finally:
        handle.remove()
    assert given[0].shape[:2] == (len(rows), columns) and given[0].is_contiguous()
    np.testing.assert_allclose(last, whole[:, -columns:], atol=2e-5)


def test_options_share_an_opening_and_part_at_one_token() -> None:
    tokens = option_tokens([[5, 7, 1], [5, 8, 1], [5, 9, 2]])
    assert tokens.prefix == (5,) and tokens.decisions == (7, 8, 9)
    with pytest.raises(ModelError, match="same first token"):
        option_tokens([[5, 7, 1], [5, 7, 2], [5, 9, 2]])
    with pytest.raises(ModelError, match="beginning"):
        option_tokens([[5, 7], [5, 7, 2]])


def test_batched_generation_is_that_of_single_rows(federation, rows) -> None:
    together = federation.evaluator.generate(rows)
    assert together == [federation.evaluator.generate([row])[0] for row in rows]


def test_the_authors_way_is_a_switch(federation, rows) -> None:
    upstream = Evaluator(federation.encoder, EvaluatorConfig(), {"decision": "sampled_text", "unparsable": "class_2"})
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    figures = upstream.evaluate(rows)
    assert {"acc", "macro_f1", "unparsable"} <= set(figures) and "loss" not in figures
    assert figures == upstream.evaluate(rows)  # seeded
    assert torch.equal(torch.rand(1), expected)


def test_slices_show_one_modality_only(federation) -> None:
    samples = federation.data.dataset.test[:20]
    for shown in ("image", "text"):
        direct = federation.evaluator.evaluate(
            [s.showing(image=shown == "image", text=shown == "text") for s in samples]
        )
        assert federation.evaluator.evaluate(samples, shown) == direct
