"""A Hugging Face ``Trainer`` that trains a client in a lean loop over the adapter's tensors.

``Trainer.train()`` works and gives the same numbers (a test shows it), but each call collects garbage, rebuilds
its loaders and keeps Adam's moments from one client to the next unless told otherwise. :meth:`LeanTrainer.fit`
runs the same optimizer, clipping and loss without that.
"""

from __future__ import annotations

import contextlib
import functools
import random
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers import Trainer, TrainingArguments

from fs_fedmllm.algorithms import State
from fs_fedmllm.algorithms.outside import called, is_outside, term
from fs_fedmllm.algorithms.outside_halves import corrected, own_anchors, watched
from fs_fedmllm.config import LocalConfig
from fs_fedmllm.evaluation.options import OptionTokens, options_of
from fs_fedmllm.models.batch import Batch, Encoded
from fs_fedmllm.models.encoding import Encoder
from fs_fedmllm.models.mllm import MLLM
from fs_fedmllm.models.peft_methods import SCALES
from fs_fedmllm.rounds.learning_rate import step_lr
from fs_fedmllm.rounds.option_shift import task_loss_sum
from fs_fedmllm.rounds.trainer import UpdateLog, UpdatePlan, update_log


@contextlib.contextmanager
def global_generators() -> Iterator[None]:
    """Leave the process-wide generators of Python, numpy and torch as they are found."""
    python, numpy = random.getstate(), np.random.get_state()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


@contextlib.contextmanager
def frozen_meanwhile(parameters: Sequence[torch.nn.Parameter]) -> Iterator[None]:
    """Neither gradient nor weight decay reaches them meanwhile."""
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


@contextlib.contextmanager
def in_training(mllm: MLLM) -> Iterator[None]:
    """The model trains meanwhile; an update that breaks off leaves neither its mode nor its gradients to the next."""
    mllm.set_training(True)
    try:
        yield
    finally:
        mllm.set_training(False)
        for parameter in mllm.adapter.parameters:
            parameter.grad = None


def grouped(rows: Sequence[Encoded] | Mapping[int, Encoded], indices: Sequence[int], micro: int) -> list[int]:
    """A step's rows in an order in which each forward pass holds rows of one kind and of like length.

    Less is padded, and a pass of rows without images leaves the vision tower out. The step's loss is the sum over its
    rows whatever their order.

    Args:
        rows: the client's encoded rows.
        indices: the rows of one step.
        micro: rows of a forward pass.
    """
    if micro == 1 or micro >= len(indices):
        return list(indices)
    return sorted(indices, key=lambda i: (rows[i].image is not None, len(rows[i].prompt) + len(rows[i].completion)))


def weight_decayed(trainer: Trainer, model: torch.nn.Module) -> list[bool]:
    """For each trainable tensor, whether weight decay is meant for it: not for norms, biases and learned scales."""
    decayed = set(trainer.get_decay_parameter_names(model))
    return [
        name in decayed and not any(scale in name for scale in SCALES)
        for name, p in model.named_parameters()
        if p.requires_grad
    ]


def new_optimizer(
    parameters: Sequence[torch.nn.Parameter], decays: Sequence[bool], local: LocalConfig, lr: float
) -> torch.optim.AdamW:
    """A fresh AdamW, as every client update starts with: no moments leak from one client to the next.

    Args:
        parameters: the adapter's.
        decays: for each, whether weight decay is meant for it.
        local: ``fedmllm.train``.
        lr: learning rate.
    """
    groups = [
        {"params": [p for p, d in zip(parameters, decays, strict=True) if d], "weight_decay": local.weight_decay},
        {"params": [p for p, d in zip(parameters, decays, strict=True) if not d], "weight_decay": 0.0},
    ]
    betas = (local.beta1, local.beta2)
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=lr, betas=betas, eps=local.eps, fused=True)


class LeanTrainer(Trainer):
    """The :class:`~fs_fedmllm.rounds.trainer.LocalTrainer` of a run: one per process, for all its clients."""

    def __init__(self, mllm: MLLM, encoder: Encoder, local: LocalConfig):
        self.mllm = mllm
        self.encoder = encoder
        self.local = local
        arguments = TrainingArguments(
            output_dir=tempfile.gettempdir(),
            per_device_train_batch_size=local.micro_batch_size or local.batch_size,
            gradient_accumulation_steps=1,
            optim="adamw_torch_fused",
            adam_beta1=local.beta1,
            adam_beta2=local.beta2,
            adam_epsilon=local.eps,
            weight_decay=local.weight_decay,
            max_grad_norm=local.max_grad_norm,
            lr_scheduler_type="constant",
            num_train_epochs=1,
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            remove_unused_columns=False,
            dataloader_pin_memory=False,
            label_names=["labels"],
            use_cpu=mllm.device.type == "cpu",
        )
        # Trainer.__init__ seeds the global generators; whoever runs beside us must not notice.
        with global_generators():
            super().__init__(model=mllm.model, args=arguments, data_collator=self._collate)
        self._decays = weight_decayed(self, mllm.model)
        self._shift: tuple[float, ...] = ()

    @functools.cached_property
    def _options(self) -> OptionTokens | None:
        return options_of(self.encoder)

    def _collate(self, rows: list[Encoded]) -> dict[str, Any]:
        batch = self.encoder.collate(rows, completions=True)
        return {"labels": batch.labels, **batch.inputs}

    def _loss_sum(self, batch: Batch) -> torch.Tensor:
        """Cross-entropy summed over the supervised tokens; the head sees the answer's columns only."""
        return self._task_loss(batch, self._logits(batch))

    def _task_loss(self, batch: Batch, logits: torch.Tensor) -> torch.Tensor:
        return task_loss_sum(batch, logits, self._options, self._shift)

    def _logits(self, batch: Batch) -> torch.Tensor:
        return self.mllm.last_logits(batch.inputs, batch.labels.shape[1])

    def _loss_and_representation(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """The summed loss, and (rows, width): what enters the head in the column before each answer."""
        seen: list[torch.Tensor] = []
        head = self.mllm.inner.get_output_embeddings()
        handle = head.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
        try:
            loss = self._task_loss(batch, self._logits(batch))
        finally:
            handle.remove()
        return loss, batch.representations(seen[-1][:, -batch.labels.shape[1] :])

    @torch.no_grad()
    def _representations(
        self, rows: Sequence[Encoded] | Mapping[int, Encoded], indices: Sequence[int], state: State | None = None
    ) -> dict[int, torch.Tensor]:
        """Each row's representation, without dropout, by the live adapter or by another one."""
        if state is not None:
            live = self.mllm.adapter.export()
            self.mllm.adapter.load(state)
            try:
                return self._representations(rows, indices)
            finally:
                self.mllm.adapter.load(live)
        micro = self.local.micro_batch_size or self.local.batch_size
        found: dict[int, torch.Tensor] = {}
        for start in range(0, len(indices), micro):
            chosen = indices[start : start + micro]
            batch = self.encoder.collate([rows[i] for i in chosen], completions=True)
            found |= dict(zip(chosen, self._loss_and_representation(batch)[1], strict=True))
        return found

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The loss that ``Trainer.train()`` uses: completion tokens only, mean over the step's tokens."""
        inputs = dict(inputs)
        batch = Batch(labels=inputs.pop("labels"), inputs=inputs)
        total = self._loss_sum(batch)
        loss = total / (num_items_in_batch if num_items_in_batch is not None else batch.supervised)
        return (loss, None) if return_outputs else loss

    def fit(
        self, start: State, rows: Sequence[Encoded] | Mapping[int, Encoded], plan: UpdatePlan
    ) -> tuple[State, UpdateLog]:
        """As :meth:`fs_fedmllm.rounds.trainer.LocalTrainer.fit`; the live adapter is the trained one afterwards."""
        self.mllm.adapter.load(start)
        self._shift = plan.option_shift
        try:
            log = self._train(rows, plan)
        finally:
            self._shift = ()
        return self.mllm.adapter.export(), log

    def _train(self, rows: Sequence[Encoded] | Mapping[int, Encoded], plan: UpdatePlan) -> UpdateLog:
        """Train the live adapter in place."""
        started = time.perf_counter()
        parameters = self.mllm.adapter.parameters
        representing = [half for half in plan.halves if half.represents]
        frozen = sorted({position for half in plan.halves for position in half.frozen})
        pulled = any(half.corrects for half in plan.halves)
        correcting = own_anchors(plan.halves, [p.detach().clone() for p in parameters] if pulled else [])
        if representing:
            blamed = next(filter(is_outside, representing), representing[0])  # an error of ours passes as it is
            represent = functools.partial(self._representations, rows, plan.rows)
            for half in representing:
                with called(half, "prepare"):
                    half.prepare(represent)
        optimizer = new_optimizer(parameters, self._decays, self.local, plan.lr)
        # A client may have a batch size of its own.
        micro = self.local.micro_batch_size or max(map(len, plan.batches), default=1)
        losses, penalties, norms, processed = [], [], [], 0
        devices = [self.mllm.device] if self.mllm.device.type == "cuda" else []
        held = frozen_meanwhile([parameters[i] for i in frozen])
        with torch.random.fork_rng(devices=devices), held, in_training(self.mllm):
            torch.manual_seed(plan.dropout_seed)
            for step, drawn in enumerate(plan.batches):
                indices = grouped(rows, drawn, micro)
                step_rows = [rows[i] for i in indices]
                supervised = sum(len(row.completion) for row in step_rows)
                total, added = (torch.zeros((), device=self.mllm.device) for _ in range(2))
                for start in range(0, len(step_rows), micro):
                    batch = self.encoder.collate(step_rows[start : start + micro], completions=True)
                    if not representing:
                        loss = self._loss_sum(batch) / supervised
                        loss.backward()
                    else:
                        summed, shown = self._loss_and_representation(batch)
                        loss, chosen = summed / supervised, indices[start : start + micro]
                        count = len(step_rows)
                        terms = [term(half, "row_loss", chosen, watched(half, shown), count) for half in representing]
                        with called(blamed, "row_loss"):
                            sum(terms, loss).backward()
                        for one in terms:
                            added += one.detach()
                    total += loss.detach()
                for half, anchors in correcting:
                    added += corrected(half, parameters, anchors, step, len(plan.batches)).to(added.device)
                penalties.append(added)
                norms.append(torch.nn.utils.clip_grad_norm_(parameters, self.local.max_grad_norm, foreach=True))
                rate = step_lr(plan.lr, step, len(plan.batches), inner=plan.lr_inner)
                for group in optimizer.param_groups:
                    group["lr"] = rate
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                losses.append(total)
                processed += len(step_rows)
        return update_log(losses, penalties, norms, rows=processed, seconds=time.perf_counter() - started)
