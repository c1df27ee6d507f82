"""TRL's ``SFTTrainer`` with FedMLLM's regulariser (equation 3 of arXiv 2411.14717), inside a federation and outside.

    L = cross-entropy of the completion's tokens + gamma_k * || mask * (w - anchor) ||^2

It is made as ``SFTTrainer`` is, and ``train()`` is TRL's own: callbacks, ``report_to``, gradient accumulation,
checkpoints and ``accelerate launch`` work as they do there. What is different: rows with and without images mix
freely, ``messages`` train on their last answer alone, and a row that has lost its answer to ``max_length`` is an
error.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from fs_fedmllm.algorithms.proximal import Penalty, coefficient, layer_mask
from fs_fedmllm.config import RegularizerConfig
from fs_fedmllm.errors import ConfigError, DataError
from fs_fedmllm.extras import require_extra
from fs_fedmllm.models.adapter import Adapter
from fs_fedmllm.models.batch import IGNORED
from fs_fedmllm.models.export import fitting, read_adapter
from fs_fedmllm.sft.rows import even_rows, missing_rate

require_extra("trl", "FedMLLMTrainer")

from trl import SFTConfig, SFTTrainer  # noqa: E402 - after the sentence that says how to install it


class AnswersLeft:
    """A collator that refuses a batch in which a row has no token left to learn.

    Args:
        collator: TRL's.
        limit: ``max_length``, for the message.
    """

    def __init__(self, collator: Any, limit: int | None):
        self.collator = collator
        self.limit = limit

    def __call__(self, examples: list[Any]) -> Any:
        """Collate.

        Raises:
            DataError: a row's answer is cut off.
        """
        batch = self.collator(examples)
        labels = batch.get("labels")
        if labels is not None and not bool((labels != IGNORED).any(dim=1).all()):
            raise DataError(
                f"A row of a batch has no token of its answer left: max_length is {self.limit}, and what is longer "
                "loses its end. Set max_length=None in SFTConfig, or a larger one."
            )
        return batch


class FedMLLMTrainer(SFTTrainer):
    """``trl.SFTTrainer`` for one client of a federation, or for nobody's.

    Args:
        model: as for ``SFTTrainer``: a name, a folder, a model, or a model with a PEFT adapter.
        args: ``trl.SFTConfig``.
        data_collator: as for ``SFTTrainer``; it makes the batches as they are, and nothing is checked.
        train_dataset: ``datasets`` rows in TRL's form: ``prompt`` and ``completion``, or ``messages``, with
            ``images``, ``image`` or neither. A null, an empty list and no column at all each say that there is none.
        eval_dataset: the same, or a mapping of names to such.
        processing_class: the model's processor.
        regularizer: ``adaptive`` (equation 3), ``fedprox``, a :class:`fs_fedmllm.config.RegularizerConfig` for values
            other than its defaults, or a ready :class:`fs_fedmllm.algorithms.proximal.Penalty`; None for none.
        anchor: the global adapter that the regulariser pulls to, by canonical PEFT name, or the folder of a saved
            adapter; None takes the adapter's values when the training starts.
        missing_rate: beta, the largest share, over modalities, of the client's rows that lack it, in [0, 1]; None
            measures it on ``train_dataset`` (see :func:`fs_fedmllm.sft.rows.missing_rate`). It has no meaning without
            ``adaptive``.
        more: everything else that ``SFTTrainer`` takes, such as ``peft_config`` and ``callbacks``.

    Raises:
        ConfigError: the regulariser leaves no layer of this model, or there is no adapter that it could pull.
        DataError: a row cannot be used.
        ModelError: the anchor is not this model's adapter.
    """

    _tag_names = ["trl", "sft", "fs-fedmllm"]  # noqa: RUF012 - as TRL declares it

    def __init__(
        self,
        model: Any,
        args: SFTConfig | None = None,
        data_collator: Any = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        *,
        regularizer: str | RegularizerConfig | Penalty | None = None,
        anchor: Mapping[str, torch.Tensor] | str | Path | None = None,
        missing_rate: float | None = None,
        **more: Any,
    ):
        vision = processing_class is None or hasattr(processing_class, "tokenizer")
        train_dataset = even_rows(train_dataset, "train_dataset", vision=vision)
        if isinstance(eval_dataset, Mapping):
            eval_dataset = {name: even_rows(rows, name, vision=vision) for name, rows in eval_dataset.items()}
        else:
            eval_dataset = even_rows(eval_dataset, "eval_dataset", vision=vision)
        super().__init__(model, args, data_collator, train_dataset, eval_dataset, processing_class, **more)
        if data_collator is None:
            self.data_collator = AnswersLeft(self.data_collator, getattr(self.args, "max_length", None))
        self._adapter: Adapter | None = None
        self._anchor: list[torch.Tensor] | None = None
        self._given = anchor
        self.penalty = self._penalty(regularizer, missing_rate)

    def _penalty(self, regularizer: str | RegularizerConfig | Penalty | None, rate: float | None) -> Penalty:
        """The regulariser of this client."""
        if regularizer is None or (isinstance(regularizer, RegularizerConfig) and regularizer.type == "none"):
            return Penalty(0.0, ())
        if isinstance(regularizer, Penalty):
            return regularizer
        config = RegularizerConfig(type=regularizer) if isinstance(regularizer, str) else regularizer
        if config.type not in ("adaptive", "fedprox"):
            raise ConfigError(f"regularizer is {config.type!r}; it can be 'adaptive' or 'fedprox'.")
        if rate is not None and not 0 <= rate <= 1:
            raise ConfigError(f"missing_rate is {rate}; it is a share, in [0, 1].")
        adapter = self._handles()
        adaptive = config.type == "adaptive"
        beta = 0.0
        if adaptive:
            beta = missing_rate(self.train_dataset) if rate is None else rate
        gamma = coefficient(config, beta=beta, switch="measured", scenario="")
        skip, block = (config.skip_layers, config.block) if adaptive else (0, "middle")
        return Penalty(gamma, layer_mask(adapter.layers, adapter.depth, skip, block))

    def _handles(self) -> Adapter:
        if self._adapter is None:
            model = self.accelerator.unwrap_model(self.model)
            if not hasattr(model, "peft_config"):
                raise ConfigError("regularizer pulls an adapter, and the model has none: give peft_config.")
            depth = int(model.config.get_text_config().num_hidden_layers)
            self._adapter = Adapter.collect(model, depth)
        return self._adapter

    def _anchors(self) -> list[torch.Tensor]:
        """What the adapter is pulled to, on the devices of its parameters, in float32."""
        if self._anchor is None:
            adapter = self._handles()
            if self._given is None:
                self._anchor = [p.detach().float().clone() for p in adapter.parameters]
            else:
                like = dict(zip(adapter.names, adapter.parameters, strict=True))
                if isinstance(self._given, Mapping):
                    given = fitting(self._given, like, "anchor")
                else:
                    given = read_adapter(Path(self._given), like)
                self._anchor = [given[name].detach().to(p.device) for name, p in like.items()]
        return self._anchor

    def train(self, *args: Any, **more: Any) -> Any:
        """As ``SFTTrainer.train``."""
        if self.penalty.gamma:
            self._anchors()
        return super().train(*args, **more)

    def _pull(self) -> torch.Tensor:
        """The penalty's value, through which gradients flow."""
        return self.penalty.value(self._handles().parameters, self._anchors())

    def _passes(self, num_items_in_batch: Any) -> int:
        """Forward passes that an optimizer step adds up."""
        return self.current_gradient_accumulation_steps if num_items_in_batch is not None else 1

    def _task_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool, num_items_in_batch: Any) -> Any:
        """The loss without the penalty."""
        return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The task's loss; while training, the penalty on top, once for every optimizer step."""
        found = self._task_loss(model, inputs, return_outputs, num_items_in_batch)
        if not (self.penalty.gamma and model.training):
            return found
        loss, outputs = found if return_outputs else (found, None)
        value = self._pull()
        # With the step's tokens counted in advance, losses of a step's passes are added up as they are.
        passes = self._passes(num_items_in_batch)
        whole = self.accelerator.gather_for_metrics(loss.detach() * passes).mean()
        self._metrics["train"]["task_loss"].append(whole.item())
        self._metrics["train"]["penalty"].append(value.detach().item())
        loss = loss + value.to(loss.device) / passes
        return (loss, outputs) if return_outputs else loss
