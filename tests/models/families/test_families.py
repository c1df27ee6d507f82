"""Every family through a whole federated run on its twin, and what the run left behind."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Collection
from unittest import mock

import numpy as np
import pytest
import torch
import twins

from fs_fedmllm.evaluation.evaluator import Evaluator
from fs_fedmllm.models.encoding import Encoder
from fs_fedmllm.models.export import read_adapter
from fs_fedmllm.models.loader import read_config
from fs_fedmllm.models.mllm import MLLM
from fs_fedmllm.models.torchvision import images_without_torchvision
from fs_fedmllm.rounds.federation import Federation
from fs_fedmllm.runs.simulation import run
from fs_fedmllm.scenarios.federated_data import prepare_data

NAMES = [*twins.BUILDERS, "minicpmv_legacy"]

#: One round of two clients, whose rows lack an image or a text in half of the cases.
RUN = (
    *("federate.client_num", 2, "federate.sample_client_num", 2, "federate.total_round_num", 1),
    *("train.local_update_steps", 3, "train.optimizer.lr", 0.02, "fedmllm.eval.limit", 6, "eval.freq", 1),
    *("fedmllm.regularizer.type", "adaptive", "fedmllm.regularizer.skip_layers", 1),
    *("fedmllm.train.warmup_ratio", 0.0, "fedmllm.eval.max_new_tokens", 2),
)


def _loss(federation: Federation, state, rows) -> float:
    federation.mllm.adapter.load(state)
    federation.mllm.set_training(False)
    batch = federation.encoder.collate(federation.encoder.encode(rows), completions=True)
    with torch.no_grad():
        return float(batch.loss_sum(federation.mllm.last_logits(batch.inputs, batch.labels.shape[1])))


def _by_hand(encoder: Encoder, rows) -> np.ndarray:
    """(rows, options) log-probabilities, each from a pass over a prompt and one option up to its end."""
    stops, scores = encoder.completions.stops, []
    for option in range(len(encoder.template.options)):
        said = encoder.completion(encoder.template.answer(option))
        said = said[: 1 + next(i for i, token in enumerate(said) if token in stops)]
        batch = encoder.collate(
            [dataclasses.replace(row, completion=said) for row in encoder.encode(rows)], completions=True
        )
        with torch.no_grad():
            logits = encoder.mllm.last_logits(batch.inputs, batch.labels.shape[1])
        scores.append(-batch.row_losses(logits).double().numpy() * len(said))
    return np.stack(scores, axis=1) - np.logaddexp.reduce(scores, axis=0)[:, None]


def _scored_both_ways(evaluator: Evaluator, rows, takes: Collection[str]) -> None:
    """Options as one sequence, which linear attention and short windows do not take, and as rows of a batch."""
    wanted, taken, asks = _by_hand(evaluator.encoder, rows), [], MLLM.takes_branches
    with mock.patch.object(MLLM, "takes_branches", lambda *a: taken.append(asks(*a)) or taken[-1]):
        np.testing.assert_allclose(evaluator.option_log_probs(rows), wanted, atol=5e-4)
    assert taken and set(taken) == {bool(takes)}
    with mock.patch.object(MLLM, "takes_branches", return_value=False):
        np.testing.assert_allclose(evaluator.option_log_probs(rows), wanted, atol=5e-4)


@pytest.mark.parametrize("name", NAMES)
def test_a_family_through_a_federated_run(name, twin, short_config) -> None:
    folder = twin(name)
    remote = name == "minicpmv_legacy"
    config = short_config("missing_b50", *RUN, "model.fedmllm.path", folder, "model.fedmllm.trust_remote_code", remote)
    results, written = run(config)
    assert results["rounds"] == 1 and results["refused"] == []

    federation = Federation.build(config, prepare_data(config))
    mllm, adapter = federation.mllm, federation.mllm.adapter
    # The adapter is on language layers only, on all of them, and the regulariser reaches those in the middle.
    assert adapter.depth == 4 and set(adapter.layers) == {0, 1, 2, 3}
    assert all(not mllm.family.feeds_vision(tensor) for tensor in adapter.names)
    assert {adapter.layers[i] for i in federation.clients.halves(1)[0].penalty.positions} == {1, 2}
    assert mllm.federated_bytes() == {"lora": adapter.bytes}

    start, end = federation.initial_state(), read_adapter(written.path / "adapter", federation.initial_state())
    assert any(not torch.equal(start[tensor], end[tensor]) for tensor in start)
    rows = [row for client in sorted(federation.data.clients) for row in federation.data.clients[client][:6]]
    assert {row.presence for row in rows} >= {"image", "text"}
    assert _loss(federation, end, rows) < _loss(federation, start, rows)

    # A mixed batch: the same logits from cached features and from pixels, and a row's own whatever is beside it.
    both, text, image, more = federation.data.dataset.test[:4]
    mixed = [both, text.showing(image=False, text=True), image.showing(image=True, text=False), more]
    pixels = Encoder(mllm, federation.data.template, "original", None)
    assert federation.encoder.vision is not None
    federation.mllm.adapter.load(end)
    logits = []
    for encoder in (federation.encoder, pixels):
        batch = encoder.collate(encoder.encode(mixed), completions=True)
        with torch.no_grad():
            logits.append(mllm.last_logits(batch.inputs, batch.labels.shape[1]))
    torch.testing.assert_close(logits[0], logits[1], rtol=0, atol=2e-5)
    # The picture matters: no two vision towers here are blind.
    swapped = [dataclasses.replace(both, image=more.image), text.showing(image=False, text=True)]
    batches = [pixels.collate(pixels.encode(rows), completions=True) for rows in (mixed[:2], swapped)]
    with torch.no_grad():
        seen = [mllm.last_logits(batch.inputs, batch.labels.shape[1]) for batch in batches]
    assert both.image != more.image and float((seen[0][0] - seen[1][0]).abs().max()) > 1e-3
    torch.testing.assert_close(seen[0][1], seen[1][1], rtol=0, atol=1e-5)
    together = federation.evaluator.option_log_probs(mixed)
    alone = np.concatenate([federation.evaluator.option_log_probs([row]) for row in mixed])
    np.testing.assert_allclose(np.exp(together).sum(axis=1), 1.0)
    np.testing.assert_allclose(together, alone, atol=2e-4)
    answers = federation.evaluator.generate(mixed)
    assert len(answers) == 4 and answers == [federation.evaluator.generate([row])[0] for row in mixed]
    # Options in words continue a prompt that was read once, and are worth what a pass of their own says; a batch of
    # texts after one with images as well, whose positions the model may remember.
    worded = dataclasses.replace(federation.data.template, lettered=False)
    for vision in (federation.encoder.vision, None):
        spelled = Evaluator(Encoder(mllm, worded, "original", vision), federation.evaluator.config)
        for asked in (mixed, mixed[1:2]):
            _scored_both_ways(spelled, asked, {name} - {"minicpmv4_6", "gemma3"})
    # Gemma 3 with a window that holds prompts and options, as the real one's does; what texts begin with once for all.
    texts, takes = [row.showing(image=False, text=True) for row in (text, both, more)], {name} - {"minicpmv4_6"}
    window = mock.patch.object(mllm.inner.config.text_config, "sliding_window", 512) if name == "gemma3" else None
    with window or contextlib.nullcontext(), mock.patch("fs_fedmllm.models.mllm.OPENING", 1):
        _scored_both_ways(spelled, mixed, takes)
        _scored_both_ways(spelled, texts, takes)

    # Activations that are computed again give the same update.
    saving = short_config(
        "missing_b50", *RUN, "model.fedmllm.path", folder, "model.fedmllm.trust_remote_code", remote,
        "train.local_update_steps", 1,
    )  # fmt: skip
    updates = []
    for on in (False, True):
        ours = dataclasses.replace(saving.fedmllm.train, gradient_checkpointing=on)
        again = dataclasses.replace(saving, fedmllm=dataclasses.replace(saving.fedmllm, train=ours))
        federation = Federation.build(again, federation.data)
        assert mllm.family.checkpointed(mllm.inner).is_gradient_checkpointing == on
        updates.append(federation.clients.update(1, 0, start).state)
    assert all(torch.equal(updates[0][tensor], updates[1][tensor]) for tensor in start)
    Federation.build(config, federation.data)  # off again
    federation.mllm.adapter.load(end)

    # The saved adapter on a fresh model, by PEFT itself.
    from peft import PeftModel

    arguments = {"trust_remote_code": remote, "dtype": torch.float32}
    with images_without_torchvision():
        _, fresh = mllm.family.load(str(folder), read_config(str(folder)), arguments)
    plain = PeftModel.from_pretrained(fresh, str(written.path / "adapter")).eval()
    batch = pixels.collate(pixels.encode(mixed), completions=True)
    with torch.no_grad():
        theirs = plain.base_model.model(**batch.inputs, use_cache=False).logits[:, -batch.labels.shape[1] :]
    torch.testing.assert_close(theirs, logits[1], rtol=0, atol=1e-5)


def test_a_legacy_model_equals_the_one_its_own_code_makes(twin) -> None:
    """transformers 5 loses what such code computes at construction; the family puts it back."""
    folder = twin("minicpmv_legacy")
    from fs_fedmllm.models.families.minicpmv_legacy import FAMILY

    arguments = {"trust_remote_code": True, "dtype": torch.float32}
    _, loaded = FAMILY.load(str(folder), read_config(str(folder)), arguments)
    made = twins.plain_legacy(folder)
    pictures = {"pixel_values": torch.linspace(-1, 1, 3 * 16 * 48).reshape(3, 16, 48), "tgt_sizes": None}
    pictures["tgt_sizes"] = torch.tensor([[1, 1], [1, 2]])
    ids = torch.tensor([[7, 8, 30, 31, 32, 33, 34, 35]])
    spans = torch.tensor([[0, 1, 1, 0, 2, 2, 0, 0]])
    with torch.no_grad():
        ours = loaded(input_ids=ids, attention_mask=torch.ones_like(ids), image_spans=spans, **pictures).logits
        data = {
            "input_ids": ids,
            "position_ids": torch.arange(8)[None],
            "image_bound": [torch.tensor([[1, 3], [4, 6]])],
            "pixel_values": [[pictures["pixel_values"][..., :16], pictures["pixel_values"][..., 16:]]],
            "tgt_sizes": [pictures["tgt_sizes"]],
        }
        theirs = made(data).logits
    assert torch.equal(made.resampler.pos_embed, loaded.resampler.pos_embed)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
