"""What a configuration's keys are called elsewhere: the words that users of other tools type first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

#: Word -> key. Trainers' and federations' usual options; a word of its own meaning here stands in no table.
COMMON_NAMES: Mapping[str, str] = MappingProxyType(
    {
        word: key
        for key, words in {
            "federate.total_round_num": "rounds num_rounds n_rounds total_rounds comm_round num_server_rounds",
            "federate.client_num": "clients num_clients n_clients client_number num_supernodes num_parties",
            "federate.sample_client_num": "clients_per_round sample_clients sampled_clients num_selected",
            "federate.sample_client_rate": "fraction fraction_fit participation sample_rate client_fraction",
            "federate.method": "algorithm algo strategy aggregation_method fl_algorithm",
            "federate.restore_from": "adapter init_adapter start_from",
            "train.optimizer.lr": "lr learning_rate local_lr client_lr",
            "fedmllm.server.lr": "server_lr global_lr",
            "train.local_update_steps": "steps local_steps max_steps epochs epoch local_epochs num_epochs "
            "num_train_epochs",
            "fedmllm.train.batch_size": "batch bs train_batch_size local_batch_size per_device_train_batch_size",
            "fedmllm.train.micro_batch_size": "micro_batch",
            "fedmllm.eval.batch_size": "eval_batch_size per_device_eval_batch_size",
            "fedmllm.train.max_length": "max_seq_length max_seq_len model_max_length cutoff_len",
            "fedmllm.train.max_grad_norm": "grad_clip clip_grad",
            "fedmllm.train.warmup_ratio": "warmup",
            "model.fedmllm.path": "model model_name model_name_or_path base_model base model_path",
            "model.fedmllm.dtype": "bf16 fp16 precision torch_dtype",
            "model.fedmllm.lora.r": "lora_r lora_rank rank",
            "model.fedmllm.lora.alpha": "lora_alpha",
            "model.fedmllm.lora.dropout": "lora_dropout",
            "model.fedmllm.quantization.type": "load_in_4bit load_in_8bit quantize bits",
            "data.type": "dataset dataset_name data_name",
            "data.root": "data data_dir data_path data_root dataset_path dataset_dir data_folder",
            "data.splitter": "scenario partition partitioner split",
            "data.splitter_args": "alpha dirichlet_alpha beta",
            "fedmllm.template": "template prompt_template",
            "fedmllm.prompt": "prompt",
            "fedmllm.regularizer.type": "regularizer regulariser",
            "fedmllm.eval.limit": "limit max_eval_samples eval_limit",
            "eval.freq": "eval_every eval_steps eval_freq test_every",
            "eval.best_res_update_round_wise_key": "metric_for_best_model best_by",
            "outdir": "out out_dir output output_dir logdir log_dir save_dir",
            "expname": "name run_name exp_name experiment_name",
            "use_gpu": "gpu cuda use_cuda",
            "device": "gpu_id device_id local_rank",
            "fedmllm.workers": "num_workers processes n_jobs jobs",
            "fedmllm.threads": "num_threads cpus",
            "fedmllm.checkpoint_every": "save_steps save_every checkpoint",
            "seed": "random_seed random_state",
        }.items()
        for word in words.split()
    }
)

#: What else is to be set where a word says how its number is counted.
BESIDE: Mapping[str, str] = MappingProxyType(
    {w: "train.batch_or_epoch=epoch" for w in ("epochs", "epoch", "local_epochs", "num_epochs", "num_train_epochs")}
)


def meant_key(word: str, known: Sequence[str]) -> str:
    """The key that a user means by a word, or by an option that there is not (``--rounds``, ``--num-clients``).

    Args:
        word: dashes before it and between its parts do not matter.
        known: every key there is.

    Returns:
        The key; empty where the word may mean several keys, or none.
    """
    name = word.lstrip("-").partition("=")[0].replace("-", "_")
    if name in known:
        return name
    last = [key for key in known if key.rpartition(".")[2] == name]
    return COMMON_NAMES.get(name.lower(), "") or (last[0] if len(last) == 1 else "")
