"""Client updates by TRL's trainer: ``fedmllm.train.backend: trl``.

Every update has the rows, the steps and the learning rates of :mod:`fs_fedmllm.rounds.lean_trainer`, and
ends with its adapter up to rounding; what is gained is whatever else ``SFTConfig`` offers (``fedmllm.train.sft``). One
trainer serves all updates. What it would keep from one to the next, or leave on the model, is put back here: Adam's
moments, the schedule, the seeds of the process, the model's ``forward``, the adapter's precision.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from accelerate.state import AcceleratorState
from datasets import Dataset
from torch.utils.data import DataLoader
from transformers import PrinterCallback

from fs_fedmllm.algorithms import State
from fs_fedmllm.algorithms.outside_halves import corrected, own_anchors
from fs_fedmllm.algorithms.proximal import Penalty, ProximalClient
from fs_fedmllm.config import LocalConfig
from fs_fedmllm.errors import ConfigError
from fs_fedmllm.evaluation.options import OptionTokens, options_of
from fs_fedmllm.models.batch import IGNORED, Batch, Encoded
from fs_fedmllm.models.encoding import Encoder
from fs_fedmllm.models.mllm import MLLM
from fs_fedmllm.rounds.lean_trainer import (
    frozen_meanwhile,
    global_generators,
    grouped,
    in_training,
    new_optimizer,
    weight_decayed,
)
from fs_fedmllm.rounds.learning_rate import step_lr
from fs_fedmllm.rounds.option_shift import task_loss_sum
from fs_fedmllm.rounds.sft_arguments import sft_arguments
from fs_fedmllm.rounds.trainer import UpdateLog, UpdatePlan, update_log
from fs_fedmllm.sft.trainer import FedMLLMTrainer


class _Updates(FedMLLMTrainer):
    """The trainer of all client updates of a process; a step's rows are collated when the step comes."""

    plan: UpdatePlan
    rows: Sequence[Encoded] | Mapping[int, Encoded]

    def __init__(self, mllm: MLLM, encoder: Encoder, local: LocalConfig):
        self.encoder, self.local, self.mllm = encoder, local, mllm
        super().__init__(
            mllm.model,
            sft_arguments(local, use_cpu=mllm.device.type == "cpu"),
            data_collator=lambda steps: steps[0],
            train_dataset=Dataset.from_dict({"input_ids": [[0]], "labels": [[0]]}),
            processing_class=mllm.tokenizer,
        )
        self.remove_callback(PrinterCallback)  # a run has its own progress
        self._decays = weight_decayed(self, mllm.model)
        self._micro = 1
        self._shift: tuple[float, ...] = ()
        self._pass = Batch({})

    @functools.cached_property
    def _options(self) -> OptionTokens | None:
        return options_of(self.encoder)

    def begin(self, rows: Sequence[Encoded] | Mapping[int, Encoded], plan: UpdatePlan) -> None:
        """Everything that an update has of its own."""
        self.rows, self.plan, self._shift = rows, plan, plan.option_shift
        self.optimizer = self.lr_scheduler = None
        self.args.max_steps = len(plan.batches)
        pulling = [half for half in plan.halves if isinstance(half, ProximalClient)]
        self.penalty = pulling[0].penalty if pulling else Penalty(0.0, ())
        self.anchors = [p.detach().clone() for p in self.mllm.adapter.parameters]
        self.correcting = own_anchors([half for half in plan.halves if half not in pulling], self.anchors)
        self.pulled = torch.zeros((), device=self.mllm.device)
        self.losses: list[torch.Tensor] = []
        self.penalties: list[torch.Tensor] = []
        self.norms: list[torch.Tensor] = []

    def get_train_dataloader(self) -> DataLoader:
        """The steps, in their order; the loader's own draw comes from a generator of its own."""
        steps: Any = [{"step": index} for index in range(len(self.plan.batches))]
        return DataLoader(steps, batch_size=1, collate_fn=lambda step: step[0], generator=torch.Generator())

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """A fresh AdamW, as in the lean loop."""
        self.optimizer = new_optimizer(self.mllm.adapter.parameters, self._decays, self.local, self.plan.lr)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """The rates of the lean loop."""
        plan, steps = self.plan, len(self.plan.batches)
        stepped: Any = optimizer or self.optimizer
        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
            stepped, lambda step: step_lr(1.0, min(step, steps - 1), steps, inner=plan.lr_inner)
        )
        return self.lr_scheduler

    def _handles(self) -> Any:
        return self.mllm.adapter

    def _anchors(self) -> list[torch.Tensor]:
        return self.anchors

    def _pull(self) -> torch.Tensor:
        value = super()._pull()
        self.pulled = value.detach()  # the same in every pass of a step
        return value

    def _passes(self, num_items_in_batch: Any) -> int:
        return self._micro

    def _task_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool, num_items_in_batch: Any) -> Any:
        """TRL's, whose head gives no logits to shift; where there is a shift, the lean loop's."""
        if not self._shift:
            return super()._task_loss(model, inputs, return_outputs, num_items_in_batch)
        logits = self.mllm.last_logits(self._pass.inputs, self._pass.labels.shape[1])
        return task_loss_sum(self._pass, logits, self._options, self._shift) / num_items_in_batch

    def floating_point_ops(self, inputs: Any) -> int:
        """Not counted."""
        return 0

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """The gradient of one step: its rows in passes of like length and kind."""
        step = int(inputs["step"])
        if step == 0:
            torch.manual_seed(self.plan.dropout_seed)
        micro = self.local.micro_batch_size or max(map(len, self.plan.batches))
        indices = grouped(self.rows, self.plan.batches[step], micro)
        supervised = sum(len(self.rows[i].completion) for i in indices)
        starts = range(0, len(indices), micro)
        self._micro = len(starts)
        total = torch.zeros((), device=self.mllm.device)
        for start in starts:
            rows = [self.rows[i] for i in indices[start : start + micro]]
            self._pass = self.encoder.collate(rows, completions=True)
            inputs = _labelled(self._pass)
            total += super().training_step(model, inputs, num_items_in_batch=torch.tensor(supervised))
        self.losses.append(total - self.pulled.to(total.device))
        self.penalties.append(self.pulled)
        return total

    def _clip_grad_norm(self, model: Any) -> torch.Tensor:
        """The algorithms correct what the passes have added up, and then it is clipped."""
        steps = len(self.plan.batches)
        for half, anchors in self.correcting:
            value = corrected(half, self.mllm.adapter.parameters, anchors, len(self.norms), steps)
            self.penalties[-1] = self.penalties[-1] + value.to(self.penalties[-1].device)
        self.norms.append(super()._clip_grad_norm(model))
        return self.norms[-1]


def _labelled(batch: Batch) -> dict[str, Any]:
    """A pass's inputs, with a label for every column: answers stand in the last ones."""
    ids = batch.inputs["input_ids"]
    labels = torch.full_like(ids, IGNORED)
    width = min(batch.labels.shape[1], ids.shape[1])
    labels[:, -width:] = batch.labels[:, -width:]
    return {**batch.inputs, "labels": labels}


class TrlTrainer:
    """As :class:`fs_fedmllm.rounds.lean_trainer.LeanTrainer`, by TRL's.

    Raises:
        ConfigError: ``fedmllm.train.sft`` names a field that cannot be set.
    """

    def __init__(self, mllm: MLLM, encoder: Encoder, local: LocalConfig):
        self.mllm, self.encoder, self.local = mllm, encoder, local
        self._trainer, self._forward = self._made()

    def _made(self) -> tuple[_Updates, Any]:
        """The trainer, and the ``forward`` that it puts on the model."""
        parameters, inner = self.mllm.adapter.parameters, self.mllm.inner
        if getattr(inner, "base_model", inner) is inner:
            raise ConfigError(
                f"fedmllm.train.backend trl: {type(inner).__name__} (family {self.mllm.family.name}) does not tell "
                "its language model from its head, which TRL's trainer needs. Use the backend lean."
            )
        kinds = [p.dtype for p in parameters]
        with global_generators(), _forward_of(inner):
            trainer = _Updates(self.mllm, self.encoder, self.local)
            forward = inner.__dict__.get("forward")
        # TRL trains the adapter of a quantised model in bfloat16.
        for parameter, kind in zip(parameters, kinds, strict=True):
            if parameter.dtype != kind:
                parameter.data = parameter.data.to(kind)
        # Garbage is collected at every train() otherwise: half a second, for what is forgotten here by name.
        trainer.accelerator.free_memory = lambda *objects: _forget(trainer.accelerator, objects)  # type: ignore[method-assign]
        return trainer, forward

    def fit(
        self, start: State, rows: Sequence[Encoded] | Mapping[int, Encoded], plan: UpdatePlan
    ) -> tuple[State, UpdateLog]:
        """As :meth:`fs_fedmllm.rounds.trainer.LocalTrainer.fit`; the live adapter is the trained one afterwards."""
        self.mllm.adapter.load(start)
        log = self._train(rows, plan)
        return self.mllm.adapter.export(), log

    def _train(self, rows: Sequence[Encoded] | Mapping[int, Encoded], plan: UpdatePlan) -> UpdateLog:
        """Train the live adapter in place."""
        started = time.perf_counter()
        if any(half.represents for half in plan.halves):
            raise ConfigError("fedmllm.train.backend trl shows no representations of rows. Use the backend lean.")
        if not AcceleratorState._shared_state:  # somebody made TrainingArguments, which forgets it
            self._trainer, self._forward = self._made()
        trainer, parameters = self._trainer, self.mllm.adapter.parameters
        frozen = sorted({position for half in plan.halves for position in half.frozen})
        trainer.begin(rows, plan)
        held = frozen_meanwhile([parameters[i] for i in frozen])
        with global_generators(), held, _forward_of(self.mllm.inner), in_training(self.mllm):
            if self._forward is not None:
                self.mllm.inner.forward = self._forward
            trainer.train()
        trainer.optimizer = trainer.lr_scheduler = None
        rows_seen, seconds = sum(map(len, plan.batches)), time.perf_counter() - started
        return update_log(trainer.losses, trainer.penalties, trainer.norms, rows=rows_seen, seconds=seconds)


@contextlib.contextmanager
def _forward_of(model: torch.nn.Module) -> Iterator[None]:
    """Leave the model's ``forward`` as it is found: TRL's stays on it, one around the other."""
    own = model.__dict__.get("forward")
    try:
        yield
    finally:
        model.__dict__.pop("forward", None)
        if own is not None:
            model.forward = own


def _forget(accelerator: Any, objects: tuple[Any, ...]) -> list[None]:
    """What ``Accelerator.free_memory`` forgets."""
    accelerator._schedulers, accelerator._optimizers, accelerator._models, accelerator._dataloaders = [], [], [], []
    accelerator.step = 0
    return [None] * len(objects)
