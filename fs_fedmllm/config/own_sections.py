"""Sections of ``fedmllm`` on training and evaluation; those with rules of their own have a module each."""

from __future__ import annotations

from dataclasses import dataclass

from fs_fedmllm import algorithms
from fs_fedmllm.keys import DECAY, NOT_NEGATIVE, ONE_OR_MORE, POSITIVE, SHARE, Range, key


@dataclass(frozen=True)
class RegularizerConfig:
    """``fedmllm.regularizer``: orthogonal to the server method (Table 10 of the paper)."""

    type: str = key("none", "Client regulariser.", choices=algorithms.REGULARIZERS)
    gamma_max: float = key(0.1, "Largest coefficient of the adaptive regulariser (equation 3).", valid=NOT_NEGATIVE)
    skip_layers: int = key(
        4, "S: the first and last S language layers are left free.", unit="layers", valid=NOT_NEGATIVE
    )
    block: str = key(
        "middle",
        "Which L - 2S language layers the adaptive regulariser covers; the paper's are the middle ones.",
        choices=("middle", "early", "late"),
    )
    mu: float = key(
        0.01, "FedProx: the penalty is mu / 2 times the squared distance, on every layer.", valid=NOT_NEGATIVE
    )


@dataclass(frozen=True)
class LocalConfig:
    """``fedmllm.train``: the details of a client's update."""

    batch_size: int = key(4, "Rows behind one optimizer step.", unit="rows", valid=ONE_OR_MORE)
    micro_batch_size: int = key(
        0,
        "Rows in one forward pass; 0 takes the whole batch at once. Rows of similar length and modality share a pass.",
        unit="rows",
        valid=NOT_NEGATIVE,
    )
    max_length: int = key(
        -1,
        "Longest row with its answer, in training, evaluation and predict: a longer one's text is shortened, then its "
        "question. -1 takes the smaller of 1200 (the paper's) and the model's positions, 0 shortens nothing.",
        unit="tokens",
        valid=Range(0, default=-1),
    )
    weight_decay: float = key(0.1, "AdamW's decoupled weight decay.", valid=NOT_NEGATIVE)
    beta1: float = key(0.9, "AdamW.", valid=DECAY)
    beta2: float = key(0.95, "AdamW.", valid=DECAY)
    eps: float = key(1.0e-8, "AdamW.", valid=POSITIVE)
    max_grad_norm: float = key(1.0, "Gradients are clipped to this norm.", valid=POSITIVE)
    lr_horizon: int = key(
        50,
        "Rounds over which the cosine falls to 0, whatever total_round_num is.",
        unit="rounds",
        valid=ONE_OR_MORE,
    )
    warmup_ratio: float = key(0.01, "Share of the horizon with linear warm-up.", valid=SHARE)
    gradient_checkpointing: bool = key(False, "Trade compute for activation memory.", numbers=False)
    backend: str = key(
        "lean",
        "What trains: our own loop, the reference, or TRL's trainer, the same up to rounding.",
        choices=("lean", "trl"),
    )
    sft: dict = key({}, "With the backend trl: further fields of its SFTConfig, such as neftune_noise_alpha.")


@dataclass(frozen=True)
class ServerConfig:
    """``fedmllm.server``: the server optimizer."""

    lr: float = key(
        -1.0,
        "Server learning rate; -1 takes 1e-3 for FedAdagrad, FedAdam and FedYogi, 1 for the others.",
        valid=Range(0, default=-1),
    )
    beta1: float = key(0.9, "Momentum of FedAvgM, first moment of the adaptive methods.", valid=DECAY)
    beta2: float = key(0.99, "Second moment of FedAdam and FedYogi.", valid=DECAY)
    tau: float = key(1.0e-3, "Adaptivity; the second moment starts at its square.", valid=POSITIVE)


@dataclass(frozen=True)
class EvaluatorConfig:
    """``fedmllm.eval``."""

    batch_size: int = key(64, "Rows in one forward pass.", unit="rows", valid=ONE_OR_MORE, numbers=False)
    zero_shot: bool = key(True, "Evaluate before round 0.")
    slices: str = key(
        "ends",
        "When the test rows are also shown with one modality only: never, at both ends of the run, or always.",
        choices=("never", "ends", "always"),
    )
    metrics: list = key(
        [],
        "Further metrics: what other packages or your program added, by name; local modules of the evaluate library, "
        "by path (./mine.py).",
        owner="server",
    )
    max_new_tokens: int = key(16, "Longest generated answer.", unit="tokens", valid=ONE_OR_MORE)
    limit: int = key(
        0,
        "Evaluate on this many rows of a split, evenly spaced (for trying things out); 0 is all.",
        unit="rows",
        valid=NOT_NEGATIVE,
    )


@dataclass(frozen=True)
class PredictConfig:
    """``fedmllm.predict``: how the finished adapter is asked by ``fs-fedmllm predict``, unless it says otherwise."""

    combine: str = key(
        "joint",
        "A row with both modalities: asked with both, or the product of what its image and its text say alone.",
        choices=("joint", "product"),
    )


@dataclass(frozen=True)
class CacheConfig:
    """``fedmllm.vision_cache``: outputs of the frozen vision tower, computed once per image."""

    enabled: bool = key(True, "Keep the features of images; switched off when a module that makes them is trained.")
    memory_mib: int = key(512, "Budget in memory.", unit="MiB", valid=NOT_NEGATIVE, numbers=False)
    folder: str = key(
        "", "Folder for a cache on disk, readable by its owner alone; empty keeps it in memory only.", numbers=False
    )
