"""What a user may set of TRL's trainer (``fedmllm.train.sft``), and what is the federation's."""

from __future__ import annotations

import dataclasses
import tempfile
import warnings
from typing import Any

from trl import SFTConfig

from fs_fedmllm.config import LocalConfig
from fs_fedmllm.errors import ConfigError

#: Fields of ``SFTConfig`` that the federation sets -> what to set in their place.
OWNED = {
    "per_device_train_batch_size": "fedmllm.train.batch_size and micro_batch_size",
    "gradient_accumulation_steps": "fedmllm.train.batch_size and micro_batch_size",
    "auto_find_batch_size": "fedmllm.train.micro_batch_size",
    "learning_rate": "train.optimizer.lr",
    "lr_scheduler_type": "fedmllm.train.lr_horizon",
    "lr_scheduler_kwargs": "fedmllm.train.lr_horizon",
    "warmup_steps": "fedmllm.train.warmup_ratio",
    "warmup_ratio": "fedmllm.train.warmup_ratio",
    "num_train_epochs": "train.local_update_steps",
    "max_steps": "train.local_update_steps",
    "optim": "nothing: clients train with AdamW",
    "optim_args": "nothing: clients train with AdamW",
    "optim_target_modules": "model.fedmllm.lora.target",
    "weight_decay": "fedmllm.train.weight_decay",
    "adam_beta1": "fedmllm.train.beta1",
    "adam_beta2": "fedmllm.train.beta2",
    "adam_epsilon": "fedmllm.train.eps",
    "max_grad_norm": "fedmllm.train.max_grad_norm",
    "max_length": "fedmllm.train.max_length",
    "truncation_mode": "fedmllm.train.max_length",
    "gradient_checkpointing": "fedmllm.train.gradient_checkpointing",
    "gradient_checkpointing_kwargs": "fedmllm.train.gradient_checkpointing",
    "bf16": "model.fedmllm.dtype",
    "fp16": "model.fedmllm.dtype",
    "bf16_full_eval": "model.fedmllm.dtype",
    "fp16_full_eval": "model.fedmllm.dtype",
    "seed": "seed",
    "data_seed": "seed",
    "full_determinism": "seed",
    "use_cpu": "use_gpu",
    "no_cuda": "use_gpu",
    "model_init_kwargs": "model.fedmllm",
    "trust_remote_code": "model.fedmllm.trust_remote_code",
    "chat_template_path": "model.fedmllm.path",
    "pad_token": "model.fedmllm.path",
    "eos_token": "model.fedmllm.path",
    "packing": "nothing: a client's rows stay apart",
    "packing_strategy": "nothing: a client's rows stay apart",
    "eval_packing": "nothing: a client's rows stay apart",
    "padding_free": "nothing: a client's rows stay apart",
    "pad_to_multiple_of": "nothing: batches are padded to their longest row",
    "dataset_text_field": "fedmllm.data",
    "dataset_kwargs": "fedmllm.data",
    "dataset_num_proc": "fedmllm.data",
    "shuffle_dataset": "seed",
    "train_sampling_strategy": "fedmllm.switches.sample_order",
    "group_by_length": "fedmllm.train.micro_batch_size",
    "completion_only_loss": "nothing: only answers are learnt",
    "assistant_only_loss": "nothing: only answers are learnt",
    "remove_unused_columns": "nothing",
    "label_names": "nothing",
    "do_train": "nothing",
    "do_eval": "eval.freq",
    "do_predict": "eval.freq",
    "eval_strategy": "eval.freq",
    "eval_steps": "eval.freq",
    "eval_delay": "eval.freq",
    "eval_on_start": "fedmllm.eval.zero_shot",
    "per_device_eval_batch_size": "fedmllm.eval.batch_size",
    "eval_accumulation_steps": "fedmllm.eval.batch_size",
    "load_best_model_at_end": "eval.best_res_update_round_wise_key",
    "metric_for_best_model": "eval.best_res_update_round_wise_key",
    "greater_is_better": "eval.best_res_update_round_wise_key",
    "save_strategy": "fedmllm.checkpoint_every",
    "save_steps": "fedmllm.checkpoint_every",
    "save_total_limit": "fedmllm.checkpoint_every",
    "save_only_model": "fedmllm.checkpoint_every",
    "save_on_each_node": "fedmllm.checkpoint_every",
    "resume_from_checkpoint": "nothing: the same command resumes a run",
    "push_to_hub": "fedmllm.hub.repo",
    "hub_model_id": "fedmllm.hub.repo",
    "hub_strategy": "fedmllm.hub.repo",
    "hub_token": "fedmllm.hub",
    "hub_private_repo": "fedmllm.hub",
    "hub_always_push": "fedmllm.hub",
    "hub_revision": "fedmllm.hub",
    "fsdp": "nothing: one process trains a client",
    "fsdp_config": "nothing: one process trains a client",
    "deepspeed": "nothing: one process trains a client",
    "parallelism_config": "nothing: one process trains a client",
    "accelerator_config": "nothing: one process trains a client",
}


def sft_arguments(local: LocalConfig, *, use_cpu: bool) -> SFTConfig:
    """TRL's arguments: the federation's, and the user's ``fedmllm.train.sft`` on top.

    Raises:
        ConfigError: a field is the federation's, is not ``SFTConfig``'s, or has a value that it does not take.
    """
    known = {field.name for field in dataclasses.fields(SFTConfig) if field.init}
    for name in local.sft:
        if name in OWNED:
            raise ConfigError(f"fedmllm.train.sft.{name} is the federation's: set {OWNED[name]}.")
        if name not in known:
            raise ConfigError(f"fedmllm.train.sft.{name}: trl's SFTConfig has no such field.")
    own: dict[str, Any] = {
        "output_dir": tempfile.gettempdir(),
        "report_to": [],
        "logging_strategy": "no",
        "disable_tqdm": True,
    }
    if "logging_steps" in local.sft or local.sft.get("report_to"):
        own["logging_strategy"] = "steps"
    try:
        with warnings.catch_warnings():  # TRL itself sets what transformers has another name for
            warnings.simplefilter("ignore", FutureWarning)
            return SFTConfig(
                **own | dict(local.sft),
                per_device_train_batch_size=1,  # one item of the loader is the whole step
                gradient_accumulation_steps=1,
                max_grad_norm=local.max_grad_norm,
                max_steps=1,
                lr_scheduler_type="constant",
                save_strategy="no",
                eval_strategy="no",
                bf16=False,
                max_length=None,
                gradient_checkpointing=False,
                remove_unused_columns=False,
                dataset_kwargs={"skip_prepare_dataset": True},
                dataloader_pin_memory=False,
                use_cpu=use_cpu,
            )
    except (TypeError, ValueError) as error:
        raise ConfigError(f"fedmllm.train.sft: {error}") from error
