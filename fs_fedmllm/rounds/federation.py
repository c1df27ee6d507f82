"""The pieces of a federated run, put together once and called by every engine.

An engine (the embedded loop, FederatedScope's server and clients) decides who talks to whom; what a client's update
computes, how updates are checked and averaged, and what is evaluated is decided in this room and nowhere else. That is
why all engines end with the same adapter bytes.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from fs_fedmllm.algorithms import REGULARIZERS, ServerOptimizer, State
from fs_fedmllm.algorithms.outside import begun_by
from fs_fedmllm.config import Config
from fs_fedmllm.config.missing_modalities import told_of_rows
from fs_fedmllm.config.model import whole_modules
from fs_fedmllm.data.sample import Sample
from fs_fedmllm.data.shapes import check_shapes
from fs_fedmllm.errors import ConfigError
from fs_fedmllm.evaluation.evaluator import Evaluator
from fs_fedmllm.evaluation.predictions import Prediction
from fs_fedmllm.evaluation.slices import PREFIXES
from fs_fedmllm.models.encoding import Encoder
from fs_fedmllm.models.lengths import configured_lengths
from fs_fedmllm.models.loader import load_mllm
from fs_fedmllm.models.mllm import MLLM
from fs_fedmllm.models.vision import VisionFeatures
from fs_fedmllm.rounds.backends import local_trainer
from fs_fedmllm.rounds.client import ClientSide
from fs_fedmllm.rounds.cores import available_cores
from fs_fedmllm.rounds.replay import recorded_participants
from fs_fedmllm.rounds.schedule import round_clients
from fs_fedmllm.rounds.server import ServerSide, server_optimizer
from fs_fedmllm.rounds.stand_ins import neutral_phrases
from fs_fedmllm.rounds.trainer import LocalTrainer
from fs_fedmllm.scenarios.federated_data import FederatedData
from fs_fedmllm.scenarios.judged import evaluated_rows
from fs_fedmllm.scenarios.test_sets import naming_set

logger = logging.getLogger("fs_fedmllm")


def set_threads(threads: int) -> None:
    """Give torch the run's CPU threads; FederatedScope's runner sets one, and numbers depend on the count.

    Args:
        threads: ``fedmllm.threads``; 0 takes what ``OMP_NUM_THREADS`` or the machine says.
    """
    limit = os.environ.get("OMP_NUM_THREADS", "")
    available = int(limit) if limit.isdigit() and int(limit) > 0 else available_cores()
    torch.set_num_threads(threads or available)


def _recomputes(model: torch.nn.Module) -> bool:
    """Whether activation checkpointing is on; transformers renames the property and warns of the old name."""
    for name in ("is_activation_checkpointing", "is_gradient_checkpointing"):
        if hasattr(type(model), name):
            return bool(getattr(model, name))
    return False


def _recompute(mllm: MLLM, wanted: bool) -> None:
    """Switch activation checkpointing on or off."""
    model = mllm.family.checkpointed(mllm.inner)
    if wanted:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    elif _recomputes(model):
        model.gradient_checkpointing_disable()


@dataclass
class Federation:
    """A run's pieces. Build it with :meth:`build`.

    Attributes:
        config: the run's configuration.
        data: rows of every client, validation and test rows.
        mllm: the process-wide model.
        encoder: rows to token ids.
        trainer: local training.
        evaluator: scores.
        optimizer: the server optimizer; None for the baseline ``local``.
        presence: rows of each client by what they show, of the manifest; at the server of a distributed run, what the
            clients told of it when they joined.
        test_sets: scores of the further test sets, by name.
    """

    config: Config
    data: FederatedData
    mllm: MLLM
    encoder: Encoder
    trainer: LocalTrainer
    evaluator: Evaluator
    optimizer: ServerOptimizer | None
    presence: dict[int, Mapping[str, int]] = field(default_factory=dict)
    _replayed: Sequence[Sequence[int]] = ()
    test_sets: Mapping[str, Evaluator] = field(default_factory=dict)

    @classmethod
    def build(cls, config: Config, data: FederatedData) -> Federation:
        """Load the model and prepare training and evaluation.

        Raises:
            ModelError: the model cannot be loaded or has no language layers where the configuration looks.
            ConfigError: the regulariser's layer mask is empty.
            DataError: an image is too long for the model's processor.
        """
        ours = config.fedmllm
        set_threads(ours.threads)
        mllm = load_mllm(config.model.fedmllm, use_gpu=config.use_gpu, device_index=config.device)
        check_shapes(data.shown(), mllm.family.widest, mllm.family.name)
        mllm.adapter.warn_if_mostly_not_lora(whole_modules(config.model.fedmllm))
        if config.model.fedmllm.image_tokens:
            shown = ", ".join(f"{name} {value}" for name, value in mllm.image_arguments.items())
            logger.warning(
                "model.fedmllm.image_tokens %d: images are shown with %s.",
                config.model.fedmllm.image_tokens,
                shown or "the checkpoint's own settings",
            )
        if mllm.groups:
            costs = ", ".join(f"{name} {size:,}" for name, size in mllm.federated_bytes().items())
            logger.warning("Modules go in full: a client sends %s bytes a round.", costs)
        _recompute(mllm, ours.train.gradient_checkpointing)
        vision, cache = None, ours.vision_cache
        if cache.enabled and mllm.takes_vision_features and mllm.vision_is_frozen:
            vision = VisionFeatures(mllm, cache.memory_mib << 20, Path(cache.folder) if cache.folder else None)
        lengths = configured_lengths(config, mllm)
        encoder = Encoder(mllm, data.template, ours.prompt, vision, lengths)
        federation = cls(
            config=config,
            data=data,
            mllm=mllm,
            encoder=encoder,
            trainer=local_trainer(mllm, encoder, ours.train),
            evaluator=Evaluator(encoder, ours.eval, config.switches),
            optimizer=server_optimizer(config),
            presence={client: record.presence for client, record in data.manifest.clients.items()},
            _replayed=recorded_participants(config),
            test_sets={
                name: Evaluator(
                    Encoder(mllm, test_set.template, ours.prompt, vision, lengths), ours.eval, config.switches
                )
                for name, test_set in data.test_sets.items()
            },
        )
        federation.clients.halves(1)  # what does not fit the model is better known now than in round 0
        if ours.stand_ins.use != "off" and ours.stand_ins.text == "neutral":
            neutral_phrases(data.template.options)
        return federation

    @property
    def clients(self) -> ClientSide:
        """The clients' part of a round."""
        return ClientSide.of(
            self.config,
            self.data.clients,
            self.data.manifest.params,
            adapter=self.mllm.adapter,
            encoder=self.encoder,
            trainer=self.trainer,
        )

    @property
    def server(self) -> ServerSide:
        """The server's part of a round."""
        return ServerSide.of(
            self.config,
            self.optimizer,
            rows={client: len(rows) for client, rows in self.data.clients.items()},
            presence=self.presence,
            on_image_path=self.mllm.family.feeds_vision,
        )

    def initial_state(self) -> State:
        """The global adapter before round 0."""
        state = self.mllm.adapter.initial_state(self.config.init_seed)
        regularizer = REGULARIZERS[self.config.fedmllm.regularizer.type]
        return begun_by(regularizer, state, lambda: self.mllm.adapter.base_weights(self.mllm.model))

    def sample_clients(self, round_index: int) -> list[int]:
        """The round's clients, ascending; a pure function of the seed and the round, or as a replay says."""
        if told_of_rows(self.config) and not self.presence:
            raise ConfigError(
                "fedmllm.sampler modality, fedmllm.stand_ins.use auto and fedmllm.aggregation.client_weights balanced "
                "or complete need to know what every client's rows show, which the server of this engine is not told. "
                "Set them to uniform, off and default."
            )
        return round_clients(self.config, round_index, self._replayed, self.presence)

    def evaluate(
        self, state: Mapping[str, torch.Tensor], *, slices: bool, keep: list[Prediction] | None = None
    ) -> dict[str, float]:
        """Metrics of a global adapter on the validation and test rows.

        Args:
            state: the adapter.
            slices: also show the test rows with their image only and with their text only.
            keep: where to add what was predicted for the test rows.

        Returns:
            ``val_*`` and ``test_*`` metrics; ``test_image_*`` and ``test_text_*`` for the slices.
        """
        self.mllm.adapter.load(state)
        val = evaluated_rows(self.config, self.data.dataset.val)
        with self.evaluator.one_adapter():
            numbers = {f"val_{k}": v for k, v in self.evaluator.evaluate(val).items()}
            return numbers | self._tested(self.evaluator, self.data.dataset.test, slices, keep)

    def evaluate_test_set(
        self, name: str, state: Mapping[str, torch.Tensor], *, slices: bool, keep: list[Prediction] | None = None
    ) -> dict[str, float]:
        """Metrics of a global adapter on a further test set, called as those of the run's own test rows."""
        self.mllm.adapter.load(state)
        with self.test_sets[name].one_adapter():
            return self._tested(self.test_sets[name], self.data.test_sets[name].rows, slices, keep)

    def _tested(
        self, evaluator: Evaluator, rows: Sequence[Sample], slices: bool, keep: list[Prediction] | None
    ) -> dict[str, float]:
        test, numbers = evaluated_rows(self.config, rows), dict[str, float]()
        views = ("both", "image", "text") if slices and any(row.presence == "both" for row in test) else ("both",)
        for shown in views:
            figures, predictions = evaluator.predict(test, shown, self.config.resampled_by)
            numbers |= {f"{PREFIXES[shown]}{k}": v for k, v in figures.items()}
            if keep is not None:
                keep += predictions
        return numbers

    def right_alone(self, state: Mapping[str, torch.Tensor], rows: Sequence[Sample]) -> dict[str, float]:
        """Share of complete rows that a global adapter decides rightly by their image alone, and by their text alone.

        Args:
            state: the adapter.
            rows: of a choice, with both modalities.
        """
        self.mllm.adapter.load(state)
        return {shown: self.evaluator.right_alone(rows, shown) for shown in ("image", "text")}

    def load_metrics(self) -> None:
        """Load the metrics that the configuration gives by path, for every set that is evaluated.

        Raises:
            ConfigError: one cannot be loaded, or takes what these rows do not have.
        """
        self.evaluator.load_metrics()
        for name, evaluator in self.test_sets.items():
            with naming_set(name):
                evaluator.load_metrics()

    @property
    def evaluation_seconds(self) -> float:
        """What all evaluations of this process took."""
        return sum(evaluator.seconds for evaluator in (self.evaluator, *self.test_sets.values()))

    def shortened_rows(self) -> dict[str, int]:
        """How many rows lose a part of their text, by what they are for, and the limit (0: none is shortened).

        Says so, if there are any.

        Raises:
            DataError: a row is too long whatever is left out of it.
        """
        rows = {
            "train": self.data.dealt,
            "val": evaluated_rows(self.config, self.data.dataset.val),
            "test": evaluated_rows(self.config, self.data.dataset.test),
        }
        limit = self.encoder.lengths.limit
        counts = {part: self.encoder.count_shortened(own) for part, own in rows.items()}
        for name, evaluator in self.test_sets.items():
            of_set = evaluated_rows(self.config, self.data.test_sets[name].rows)
            counts[f"test_sets.{name}"] = evaluator.encoder.count_shortened(of_set)
        if any(counts.values()):
            told = ", ".join(f"{count} {part}" for part, count in counts.items() if count)
            logger.warning(
                "Rows are longer than %d tokens (fedmllm.train.max_length), and their texts are shortened: %s rows.",
                limit,
                told,
            )
        return {"max_length": limit, **counts}
