"""FederatedScope's keys: which of them our runs honour, which they refuse, and what to use instead.

One table for both engines, so that the same file means the same on both; it is no part of the host's package because
the embedded engine speaks by it too. The longest entry that a key begins with counts. A key with FederatedScope's own
default asks for nothing; with another value it does what its entry says, and is never passed over in silence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fs_fedmllm.config.host_defaults import DEFAULTS


@dataclass(frozen=True)
class HostKey:
    """What becomes of a key.

    Attributes:
        kind: ``same`` sets a key of ours; ``special`` is read by :mod:`fs_fedmllm.config.host_reading`; ``shown``
            changes what FederatedScope itself prints and no number; ``host`` works in FederatedScope and is refused on
            the embedded engine; ``idle`` changes nothing, and a line says why; ``refused``.
        says: the end of a sentence that names the key and its value: why, and what to use instead.
        to: the key of ours that it sets.
    """

    kind: Literal["same", "special", "shown", "host", "idle", "refused"]
    says: str = ""
    to: str = ""


def _same(to: str) -> HostKey:
    return HostKey("same", to=to)


def _refused(says: str) -> HostKey:
    return HostKey("refused", says)


_SHOWN = HostKey("shown")
_SPECIAL = HostKey("special")
_ADAMW = "but a client's optimizer is AdamW, whose settings are fedmllm.train.beta1, beta2, eps and weight_decay."
_SCHEDULE = (
    "but the learning rate falls along a cosine over rounds. Set fedmllm.train.lr_horizon and "
    "fedmllm.train.warmup_ratio, or fedmllm.switches.lr_inner for the steps of a client update."
)
_GRAPHS = "which is an algorithm for graphs. Remove it."
_OWN_DATA = (
    "which is for FederatedScope's own data sets. Remove it; what our data sets take is fedmllm.data, data.splitter "
    "and data.splitter_args."
)
_SITE = HostKey(
    "special",
    "which is read by a site of a run across machines: set federate.mode: distributed and distribute.use: True, or "
    "start it with fs-fedmllm server or client. Otherwise remove it.",
)

TABLE: dict[str, HostKey] = {
    # The run.
    "check_completeness": _refused("but FederatedScope's check of its messages does not know ours. Set it to False."),
    "verbose": _SHOWN,
    "print_decimal_digits": _SHOWN,
    "cfg_file": _SHOWN,
    "expname_tag": _SPECIAL,
    # Training.
    "train.optimizer": _refused(_ADAMW),
    "train.optimizer.weight_decay": _same("fedmllm.train.weight_decay"),
    "train.optimizer.eps": _same("fedmllm.train.eps"),
    "train.optimizer.betas": _SPECIAL,
    "train.scheduler": _refused(_SCHEDULE),
    "train.data_para_dids": _refused(
        "but a model is not copied to several devices. Set use_gpu: True, and model.fedmllm.device_map to lay one "
        "model over several."
    ),
    "grad.grad_clip": _SPECIAL,
    "grad.grad_accum_count": _refused(
        "but rows are accumulated by fedmllm.train.batch_size (rows behind a step) and fedmllm.train.micro_batch_size "
        "(rows in a forward pass). Set those."
    ),
    "dataloader.batch_size": _same("fedmllm.train.batch_size"),
    "data.batch_size": _SPECIAL,
    "dataloader.num_workers": HostKey("idle", "rows are read and encoded by the process that trains"),
    "data.num_workers": HostKey("idle", "rows are read and encoded by the process that trains"),
    "dataloader.pin_memory": HostKey("idle", "rows are read and encoded by the process that trains"),
    **dict.fromkeys(
        ("dataloader.drop_last", "data.drop_last"),
        _refused("but an incomplete last step is trained on. Set fedmllm.switches.accumulation_tail: dropped."),
    ),
    **dict.fromkeys(
        ("dataloader.shuffle", "data.shuffle"),
        _refused(
            "but every pass over a client's rows has an order of its own. Leave it True; "
            "fedmllm.switches.sample_order: repeated gives every round the same one."
        ),
    ),
    "dataloader": _refused("but rows are batched by fedmllm.train.batch_size. Remove it."),
    "criterion.type": _SPECIAL,
    "trainer": _refused("which is for FederatedScope's own trainers. Remove it."),
    "regularizer": _refused("which does not reach our trainer. Set fedmllm.regularizer.type instead."),
    "fedprox": _refused(
        "FederatedScope's own regulariser, which does not reach our trainer. Set fedmllm.regularizer.type: fedprox "
        "(and fedmllm.regularizer.mu) instead."
    ),
    "early_stop": _refused("but runs end at federate.total_round_num and keep the best round. Remove it."),
    "finetune": _refused(
        "but clients do not fine-tune before an evaluation. Remove it; federate.method: local trains every client by "
        "itself."
    ),
    "personalization": _refused(
        "but clients keep no parameters of their own in a federated run. Remove it; federate.method: local trains "
        "every client by itself."
    ),
    "personalization.lr": _SPECIAL,
    "personalization.local_update_steps": _SPECIAL,
    # The federation.
    "federate.unseen_clients_rate": _refused(
        "but every client may be drawn. Leave the rows of unseen clients out of the data set, and test the finished "
        "adapter on them with fs-fedmllm predict."
    ),
    "federate.ignore_weight": _SPECIAL,
    "federate.data_weighted_aggr": _refused("set fedmllm.aggregation.client_weights: samples instead."),
    "federate.online_aggr": _refused("but updates are summed up as they come anyway. Set it to False."),
    "federate.use_diff": _refused("but our servers and clients agree on what they send. Set it to False."),
    **dict.fromkeys(
        ("federate.merge_test_data", "federate.merge_val_data"),
        _refused("but evaluation is on all validation and test rows together anyway. Set it to False."),
    ),
    "federate.use_ss": _refused(
        "FederatedScope's secret sharing, which does not reach adapters. Set "
        "fedmllm.privacy.secure_aggregation.enabled: True instead."
    ),
    "federate.join_in_info": _refused("but our clients tell the server what it needs. Remove it."),
    "federate.sampler": _refused(
        "but a round's clients are drawn uniformly. Remove it; fedmllm.sampler: modality covers both modalities, and "
        "fedmllm.replay repeats the clients of an earlier run."
    ),
    "federate.resource_info_file": _refused("but the time of simulated devices is not part of our runs. Remove it."),
    "federate.process_num": _SPECIAL,
    **dict.fromkeys(
        ("federate.master_addr", "federate.master_port"),
        _refused("which FederatedScope reads with federate.process_num above 1. Remove it; see fedmllm.workers."),
    ),
    **dict.fromkeys(("federate.atc_vanilla", "federate.atc_load_from"), _refused("which is for ATC. Remove it.")),
    **dict.fromkeys(
        (f"distribute.{name}" for name in ("use", "role", "data_idx", "server_host", "server_port")),
        _SITE,
    ),
    **dict.fromkeys(
        ("distribute.client_host", "distribute.client_port"),
        HostKey("idle", "clients call the server and open no port"),
    ),
    "distribute.data_file": _refused("set data.root (or --data) to the site's folder instead."),
    **dict.fromkeys(
        ("distribute.grpc_max_send_message_length", "distribute.grpc_max_receive_message_length"),
        _refused("set fedmllm.network.max_message (in MiB) instead."),
    ),
    "distribute.grpc_compression": _refused("set fedmllm.compression.upload and download instead."),
    "distribute.grpc_enable_http_proxy": _refused("but sites connect directly. Set it to False."),
    "aggregator": _refused(
        "but FederatedScope's aggregators do not know adapters. Set fedmllm.aggregation.rule (krum, multi_krum, "
        "median, trimmed_mean, norm_bounded) and fedmllm.aggregation.byzantine instead."
    ),
    "fedopt": _refused(
        "but the server's optimizer is the method. Set federate.method to fedavgm, fedadagrad, fedadam or fedyogi, "
        "and fedmllm.server.lr."
    ),
    "fedswa": _refused("set fedmllm.average_last: the mean of the last rounds' adapters, beside the run's own."),
    "asyn": _refused(
        "which is for FederatedScope's own server. Remove it; in simulation set fedmllm.async.buffer, and across "
        "machines fedmllm.network.turn_timeout and min_clients end a round without the slow ones."
    ),
    "quantization": _refused("set fedmllm.compression.upload and download instead."),
    "vertical": _refused("but clients hold rows, and not columns of the same rows. Remove it."),
    # Privacy and attacks.
    "nbafl": _refused(
        "but FederatedScope's noise does not reach adapters, so nothing would be private. Set "
        "fedmllm.privacy.dp.clip_norm and fedmllm.privacy.dp.noise_multiplier (or target_epsilon) instead."
    ),
    "sgdmf": _refused(
        "which is for FederatedScope's matrix factorisation. Set fedmllm.privacy.dp.clip_norm and "
        "fedmllm.privacy.dp.noise_multiplier for differential privacy."
    ),
    "attack": _refused("but FederatedScope's attacks do not know our trainer. Remove it."),
    # Data, models, evaluation.
    "data": _refused(_OWN_DATA),
    "data.args": _refused("set fedmllm.data, the options of the data set, instead."),
    "data.subsample": _refused(
        "but all training rows are used. Make the data set smaller; fedmllm.eval.limit thins out the evaluation."
    ),
    "data.splits": _refused("but a data set brings its own validation and test rows. Remove it."),
    **dict.fromkeys(
        (f"data.{split}transform" for split in ("", "val_", "test_")),
        _refused("but the model's own processor prepares images. Set model.fedmllm.image instead."),
    ),
    "model": _refused("which is for FederatedScope's own models. Remove it; ours are set by model.fedmllm."),
    "model.dropout": _refused("set model.fedmllm.lora.dropout instead."),
    "feat_engr": _refused("but rows are images and texts, and no table of features. Remove it."),
    "eval.split": _refused("but validation and test rows are both evaluated. Remove it."),
    "eval.report": _SHOWN,
    "eval.count_flops": _SHOWN,
    "eval.monitoring": _refused("which our clients do not measure. Remove it; metrics.jsonl has every client update."),
    "wandb": HostKey(
        "host",
        "which only FederatedScope's monitor writes to. Run it with --engine federatedscope, or read the TensorBoard "
        "events of the run folder.",
    ),
    "hpo": _refused("but FederatedScope's search does not know our runs. Run a grid with fs-fedmllm sweep instead."),
    **dict.fromkeys(("fedsageplus", "gcflplus", "flitplus"), _refused(_GRAPHS)),
}

#: Sections that take any key in FederatedScope, so that a key without a default there is one that somebody gave.
OPEN = ("train.optimizer", "train.scheduler")
#: Sections of FederatedScope alone.
FOREIGN = frozenset(
    {name.partition(".")[0] for name in DEFAULTS if "." in name}
    - {"federate", "data", "model", "train", "trainer", "eval", "early_stop"}
)


def host_key(path: str) -> HostKey | None:
    """What becomes of a key that the schema does not have.

    Returns:
        None for a key that FederatedScope does not have either.
    """
    section = path.partition(".")[0]
    opened = any(path.startswith(f"{name}.") for name in OPEN)
    if path not in DEFAULTS and section not in FOREIGN and not opened:
        return None
    name = path
    while name:
        if name in TABLE:
            return TABLE[name]
        name = name.rpartition(".")[0]
    return None
