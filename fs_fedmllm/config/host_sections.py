"""FederatedScope's sections, with those of its keys that the embedded engine honours."""

from __future__ import annotations

from dataclasses import dataclass

from fs_fedmllm import algorithms
from fs_fedmllm.config.model import ModelOptions
from fs_fedmllm.config.open_names import SPLITTERS
from fs_fedmllm.keys import NOT_NEGATIVE, ONE_OR_MORE, Range, key, section


@dataclass(frozen=True)
class FederateConfig:
    """``federate``: FederatedScope's section of the federation."""

    mode: str = key(
        "standalone", "How the federation runs.", choices=("standalone", "distributed"), owner="server", numbers=False
    )
    method: str = key("fedavg", "Server method, or one of the baselines local and global.", choices=algorithms.METHODS)
    client_num: int = key(
        0,
        "Clients in the federation. Left out (0) where the rows say it (data.splitter: fedmllm_given), and refused "
        "there if the rows say another; elsewhere it must be given.",
        unit="clients",
    )
    sample_client_num: int = key(
        -1, "Clients drawn in a round; -1 takes all.", unit="clients", valid=Range(1, default=-1), owner="server"
    )
    sample_client_rate: float = key(
        -1.0,
        "The same as a share of the clients; it takes precedence if both are set.",
        valid=Range(0, 1, True, default=-1),
        owner="server",
    )
    total_round_num: int = key(50, "Rounds to run.", unit="rounds", valid=ONE_OR_MORE, owner="server")
    make_global_eval: bool = key(
        True, "Evaluate on the server. Must be True, but with local and global.", owner="server", numbers=False
    )
    share_local_model: bool = key(
        True,
        "One model for all clients. Our runs always share the base, so False changes nothing.",
        owner="server",
        numbers=False,
    )
    save_to: str = key(
        "", "File for a further copy of the final adapter, as safetensors.", owner="server", numbers=False
    )
    restore_from: str = key(
        "",
        "An adapter to start from: a safetensors file, the folder that holds it, or hub:owner/name@revision.",
        owner="server",
    )


@dataclass(frozen=True)
class DataConfig:
    """``data``: the data set and the scenario that splits it."""

    type: str = key("", "Name of the data set.")
    root: str = key(
        "data",
        "Folder that holds the data set, from where the command runs, else from the file's folder; the embedded ones "
        "need none.",
        owner="site",
    )
    splitter: str = key("", "Scenario.", choices=SPLITTERS)
    splitter_args: list = key(
        [], "One mapping with the scenario's parameters: alpha, by, beta, image_clients, p, client, seed..."
    )


@dataclass(frozen=True)
class ModelConfig:
    """``model``."""

    type: str = key("fedmllm", "Must be fedmllm.", choices=("fedmllm",))
    fedmllm: ModelOptions = section(ModelOptions)


@dataclass(frozen=True)
class OptimizerConfig:
    """``train.optimizer``: a client's local optimizer; fresh in every round."""

    type: str = key("AdamW", "Local optimizer.", choices=("AdamW",))
    lr: float = key(2.0e-5, "Base learning rate, before the schedule across rounds.", valid=NOT_NEGATIVE)


@dataclass(frozen=True)
class TrainConfig:
    """``train``: how long a client trains in a round."""

    local_update_steps: int = key(
        1, "Optimizer steps (batch) or passes over the client's rows (epoch).", valid=ONE_OR_MORE
    )
    batch_or_epoch: str = key("batch", "Unit of local_update_steps.", choices=("batch", "epoch"))
    optimizer: OptimizerConfig = section(OptimizerConfig)


@dataclass(frozen=True)
class TrainerConfig:
    """``trainer``."""

    type: str = key("fedmllm", "Must be fedmllm.", choices=("fedmllm",))


@dataclass(frozen=True)
class EvalConfig:
    """``eval``."""

    freq: int = key(1, "Evaluate after every freq-th round.", unit="rounds", valid=ONE_OR_MORE)
    metrics: list = key([], "Names that FederatedScope's monitor reports (host only).", numbers=False)
    best_res_update_round_wise_key: str = key("val_loss", "The metric that picks the best round.")


@dataclass(frozen=True)
class EarlyStopConfig:
    """``early_stop``."""

    patience: int = key(0, "Must be 0: runs end at total_round_num.", unit="evaluations")
