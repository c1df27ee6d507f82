"""Who trains the clients of a run, by name."""

from __future__ import annotations

from fs_fedmllm.config import LocalConfig
from fs_fedmllm.models.encoding import Encoder
from fs_fedmllm.models.mllm import MLLM
from fs_fedmllm.rounds.lean_trainer import LeanTrainer
from fs_fedmllm.rounds.trainer import LocalTrainer


def local_trainer(mllm: MLLM, encoder: Encoder, local: LocalConfig) -> LocalTrainer:
    """The trainer that ``fedmllm.train.backend`` names.

    Raises:
        ConfigError: the trainer cannot have these settings, or not this model.
    """
    if local.backend == "trl":
        from fs_fedmllm.rounds.trl_trainer import TrlTrainer

        return TrlTrainer(mllm, encoder, local)
    return LeanTrainer(mllm, encoder, local)
