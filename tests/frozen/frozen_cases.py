"""What is frozen: short runs by name, and configurations that are refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from short_runs import SHORT

AGGREGATION, PRIVACY, LORA = "fedmllm.aggregation.", "fedmllm.privacy.", "model.fedmllm."
DP = [PRIVACY + "dp.clip_norm", "0.05", PRIVACY + "dp.noise_multiplier", "2.0"]
SECURE = [PRIVACY + "secure_aggregation.enabled", "True", "federate.sample_client_num", "3"]
#: Everybody, in every round: what is kept on clients is used again.
THREE = ["federate.client_num", "3", "federate.sample_client_num", "3", "federate.total_round_num", "3",
         "eval.freq", "3"]  # fmt: skip
SIX = ["federate.client_num", "6", "federate.sample_client_num", "6"]


@dataclass(frozen=True)
class Case:
    """A run.

    Attributes:
        preset: a shipped file, without ``.yaml``.
        words: overrides after those that make it short.
        federatedscope: whether it is also run inside FederatedScope.
    """

    preset: str
    words: tuple[str, ...]
    federatedscope: bool = False


def _case(preset: str, *words: Any, federatedscope: bool = False) -> Case:
    return Case(preset, tuple(map(str, words)), federatedscope)


RUNS = {
    "plain": _case("cross_i3t7", federatedscope=True),
    "both_strategies": _case(
        "cross_i3t7", "fedmllm.prompt", "augmented", "fedmllm.regularizer.type", "adaptive",
        "fedmllm.regularizer.gamma_max", 10, "fedmllm.eval.zero_shot", "True", "fedmllm.eval.slices", "always",
        federatedscope=True,
    ),
    "fedavgm_aligned": _case("aligned_a05", "federate.method", "fedavgm"),
    "fedyogi_missing_adaptive": _case(
        "missing_b50", "federate.method", "fedyogi", "fedmllm.regularizer.type", "adaptive", federatedscope=True
    ),
    "fedadam_hybrid_augmented": _case("hybrid_p60", "federate.method", "fedadam", "fedmllm.prompt", "augmented"),
    "fedadagrad_missing": _case("missing_b30", "federate.method", "fedadagrad", "eval.freq", 1),
    "scaffold": _case("aligned_a05", *THREE, "federate.method", "scaffold", federatedscope=True),
    "feddyn_moon": _case("hybrid_p80", *THREE, "federate.method", "feddyn", "fedmllm.regularizer.type", "moon"),
    "local": _case(
        "cross_i3t7", "federate.method", "local", "federate.client_num", 3,
        "data.splitter_args", "[{alpha: 5.0, image_clients: 1, text_clients: 2}]",
    ),
    "global": _case("aligned_a50", "federate.method", "global"),
    "fedprox": _case("missing_b40", "fedmllm.regularizer.type", "fedprox", "fedmllm.regularizer.mu", 10),
    "yoco": _case(
        "aligned_a10", "fedmllm.regularizer.type", "yoco", "federate.total_round_num", 1, "eval.freq", 1
    ),
    "krum": _case("aligned_a50", *SIX, AGGREGATION + "rule", "krum", AGGREGATION + "byzantine", 1),
    "median_outliers": _case(
        "aligned_a50", *SIX, AGGREGATION + "rule", "median", AGGREGATION + "outlier_factor", 50
    ),
    "trimmed_mean": _case("hybrid_p70", *SIX, AGGREGATION + "rule", "trimmed_mean", AGGREGATION + "trim", 0.2),
    "clipped_updates": _case(
        "aligned_a05", AGGREGATION + "max_update_norm", 0.01, AGGREGATION + "norm_action", "clip"
    ),
    "exact_ranks": _case(
        "aligned_a05", *THREE, AGGREGATION + "lora", "exact", AGGREGATION + "ranks", "[2, 8, 4]", federatedscope=True
    ),
    "frozen_a_scaffold_int8": _case(
        "cross_i5t5", "federate.method", "scaffold", AGGREGATION + "lora", "frozen_a", "fedmllm.compression.upload",
        "int8",
    ),
    "balanced_weights": _case("hybrid_p60", *SIX, AGGREGATION + "client_weights", "balanced"),
    "complete_weights": _case("missing_b30", *SIX, AGGREGATION + "client_weights", "complete"),
    "uniform_weights": _case("aligned_a05", AGGREGATION + "client_weights", "uniform"),
    "differential_privacy": _case("cross_i3t7", *DP, "federate.method", "fedadam", federatedscope=True),
    "poisson": _case("cross_i3t7", *DP, PRIVACY + "dp.sampling", "poisson", "federate.sample_client_num", 4),
    "secure_aggregation": _case("cross_i3t7", *SECURE, federatedscope=True),
    "secure_and_private": _case("aligned_a05", *SECURE, *DP),
    "compressed": _case(
        "aligned_a05", *THREE, "fedmllm.compression.upload", "int4", "fedmllm.compression.download", "bfloat16",
        federatedscope=True,
    ),
    "upload_bfloat16": _case("cross_i7t3", "fedmllm.compression.upload", "bfloat16"),
    "bfloat16": _case("cross_i3t7", LORA + "dtype", "bfloat16"),
    "nf4": _case("cross_i3t7", LORA + "quantization.type", "nf4"),
    "paper": _case("missing_b50", "fedmllm.profile", "paper", "fedmllm.regularizer.type", "adaptive"),
    "upstream": _case(
        "hybrid_p60", "fedmllm.profile", "upstream", "fedmllm.regularizer.type", "adaptive", federatedscope=True
    ),
    "micro_batches": _case(
        "aligned_a05", "fedmllm.train.micro_batch_size", 2, "fedmllm.train.gradient_checkpointing", "True",
        "fedmllm.vision_cache.enabled", "False",
    ),
    "epochs": _case("cross_i3t7", "train.batch_or_epoch", "epoch", "train.local_update_steps", 1,
                    "federate.client_num", 60, "data.splitter_args", "[{alpha: 5.0, image_clients: 30}]"),
    "dora": _case("aligned_a05", LORA + "peft", "dora", LORA + "lora.r", 4),
    "projector": _case("aligned_a05", LORA + "federated", "[lora, projector]"),
    "match": _case("aligned_a05", "data.type", "digits_match", "eval.best_res_update_round_wise_key", "val_auc"),
    "panel": _case(
        "aligned_a05", "data.type", "digits_panel", "eval.best_res_update_round_wise_key", "val_acc",
        "data.splitter_args", "[{alpha: 0.5, by: kind}]",
    ),
}  # fmt: skip

#: What a run across processes has beside its preset: a server and two clients.
ACROSS = [*SHORT, "federate.client_num", "2", "federate.sample_client_num", "2", "eval.freq", "2",
          "fedmllm.eval.limit", "4", "expname", "ward"]  # fmt: skip

#: Commands that are refused, by name: what follows ``run configs/cross_i3t7.yaml``.
BAD = {
    "unknown key": ["seeed", "1"],
    "unknown key of a section": ["federate.methd", "fedavg"],
    "a key of the other engine": ["wandb.use", "True"],
    "odd number of words": ["seed"],
    "not a number": ["seed", "seven"],
    "not a boolean": ["fedmllm.eval.zero_shot", "perhaps"],
    "out of range": ["fedmllm.train.batch_size", "0"],
    "method misspelt": ["federate.method", "fedadagard"],
    "method unknown": ["federate.method", "fednova"],
    "rule unknown": ["fedmllm.aggregation.rule", "mode"],
    "regularizer unknown": ["fedmllm.regularizer.type", "l2"],
    "profile unknown": ["fedmllm.profile", "authors"],
    "switch unknown": ["fedmllm.switches.fedavgg", "mean"],
    "switch's value": ["fedmllm.switches.fedavg", "sum"],
    "more clients a round than there are": ["federate.sample_client_num", "11"],
    "image and text clients": ["data.splitter_args", "[{image_clients: 3, text_clients: 7}]", "federate.client_num",
                               "12"],
    "splitter unknown": ["data.splitter", "fedmllm_crossed"],
    "splitter's option": ["data.splitter_args", "[{alpha: 0.5, image_client: 3}]"],
    "too many clients": ["federate.client_num", "2500", "data.splitter_args", "[{alpha: 0.5, image_clients: 3}]"],
    "metric unknown": ["eval.best_res_update_round_wise_key", "val_f1"],
    "mode": ["federate.mode", "distributed"],
    "data set misspelt": ["data.type", "digits_triag"],
    "data set's option": ["fedmllm.data", "{sed: 1}"],
    "template absent": ["fedmllm.template", "absent"],
    "folder absent": ["data.type", "hateful_memes", "data.root", "absent"],
    "no language layer": ["model.fedmllm.lora.target", r".*decoder\.blocks\.(\d+)\.attention"],
    "bad expression": ["model.fedmllm.lora.target", "(("],
    "empty mask": ["fedmllm.regularizer.type", "adaptive", "fedmllm.regularizer.skip_layers", "6"],
    "adapter absent": ["federate.restore_from", "absent"],
    "run's name": ["expname", "../elsewhere"],
    "noise without a bound": ["fedmllm.privacy.dp.noise_multiplier", "1"],
    "privacy and local": [*DP, "federate.method", "local"],
    "secure aggregation and a rule": ["fedmllm.privacy.secure_aggregation.enabled", "True",
                                      "fedmllm.aggregation.rule", "median"],
    "krum needs more": ["fedmllm.aggregation.rule", "krum", "fedmllm.aggregation.byzantine", "4"],
    "ranks": ["fedmllm.aggregation.ranks", "[1, 2]"],
    "replay absent": ["fedmllm.replay", "absent.json"],
    "quantization unknown": ["model.fedmllm.quantization.type", "nf5"],
}  # fmt: skip
