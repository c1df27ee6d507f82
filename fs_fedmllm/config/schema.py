"""The schema: frozen dataclasses with units and defaults.

The keys outside ``fedmllm`` and ``model.fedmllm`` are FederatedScope's; this module mirrors those that the embedded
engine honours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, make_dataclass, replace
from typing import TYPE_CHECKING, Any

from fs_fedmllm import algorithms
from fs_fedmllm.config.aggregation import AggregationConfig
from fs_fedmllm.config.asynchronous import AsyncConfig
from fs_fedmllm.config.compression import CompressionConfig
from fs_fedmllm.config.hub import HubConfig
from fs_fedmllm.config.judge import JudgeSection
from fs_fedmllm.config.missing_modalities import SAMPLERS, StandInsConfig
from fs_fedmllm.config.model import ModelOptions
from fs_fedmllm.config.network import NetworkConfig
from fs_fedmllm.config.open_names import GIVEN, PREFIX, SPLITTERS, counts_itself
from fs_fedmllm.config.privacy import PrivacyConfig
from fs_fedmllm.config.profiles import PROFILES, SCENARIO_SWITCHES, SWITCHES, profile_switches
from fs_fedmllm.keys import DECAY, MAX_SEED, NOT_NEGATIVE, ONE_OR_MORE, PARALLEL, POSITIVE, SHARE, Range, key, section

METHODS = algorithms.METHODS
#: Splits that are evaluated.
SPLITS = ("val", "test")


#: What ``data.splitter_args`` may hold beside the switches; the scenarios check the values.
SCENARIO_ARGS = (
    *("alpha", "by", "keep_together", "beta", "image_clients", "text_clients", "p", "seed", "file_order"),
    *("client", "scenario"),
)


@dataclass(frozen=True)
class FederateConfig:
    """``federate``: FederatedScope's section of the federation."""

    mode: str = key(
        "standalone", "How the federation runs.", choices=("standalone", "distributed"), owner="server", numbers=False
    )
    method: str = key("fedavg", "Server method, or one of the baselines local and global.", choices=METHODS)
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
        "The same as a share of the clients; it wins when both are set.",
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
        "Rows in one forward pass; 0 takes the whole batch at once. Rows of like length and modality share a pass.",
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
        "Who trains: our own loop, the reference, or TRL's trainer, the same up to rounding.",
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
        "Evaluate on so many rows of a split, evenly spaced (for trying things out); 0 is all.",
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

    enabled: bool = key(True, "Off by itself when anything that feeds it is trainable.")
    memory_mib: int = key(512, "Budget in memory.", unit="MiB", valid=NOT_NEGATIVE, numbers=False)
    folder: str = key(
        "", "Folder for a cache on disk, readable by its owner alone; empty keeps it in memory only.", numbers=False
    )


@dataclass(frozen=True)
class _FedMLLMConfig:
    profile: str = key("fixed", "Fidelity profile.", choices=PROFILES)
    switches: dict = key({}, "Single switches that override the profile.")
    prompt: str = key("original", "Prompt variant, in training and evaluation.", choices=("original", "augmented"))
    template: str = key("", "Prompt template: a name, or the path of a .yaml; empty takes the data set's own.")
    clients: dict = key(
        {},
        "In what single clients differ, by client_1, client_2...: train.optimizer.lr, train.local_update_steps and "
        "fedmllm.train.batch_size; FederatedScope's --client_cfg writes it.",
    )
    parameters: dict = key(
        {},
        "Parameters of an algorithm from another package, as a mapping under the section's name that it declares.",
    )
    data: dict = key({}, "Options of the data set.", owner="site", aside=("title", "extract_images"))
    test_sets: dict = key(
        {},
        "Further test sets, evaluated beside the run's own: name -> type (as data.type), root (its folder, from "
        "data.root on), template (empty takes the set's own) and options (as fedmllm.data).",
        owner="server",
    )
    threads: int = key(
        0, "CPU threads; 0 takes what the machine offers.", unit="threads", valid=PARALLEL, owner="site"
    )
    workers: int = key(
        0,
        "Processes that run client updates side by side on the embedded engine, each on one CPU thread; "
        "0 takes what the machine offers, 1 none. The adapter is the same.",
        unit="processes",
        valid=PARALLEL,
        owner="site",
        numbers=False,
    )
    checkpoint_every: int = key(
        1,
        "Save the run's state after every n-th round; 0 never.",
        unit="rounds",
        valid=NOT_NEGATIVE,
        owner="server",
        numbers=False,
    )
    average_last: int = key(
        0,
        "k: also keep and evaluate the mean of the last k rounds' adapters, A with A and B with B; 0 keeps none.",
        unit="rounds",
        valid=Range(2, default=0),
        owner="server",
    )
    report_to: list = key(
        ["tensorboard"],
        "Where a run reports its numbers beside its folder: tensorboard, wandb, mlflow; [] is nowhere.",
        owner="server",
        numbers=False,
    )
    replay: str = key(
        "",
        "results.json of a run: its recorded clients take part in each round, in place of those that would be drawn.",
        owner="server",
    )
    sampler: str = key(
        "uniform",
        "How a round's clients are drawn: evenly, or in turn one that shows images and one that shows texts.",
        choices=SAMPLERS,
    )
    label_prior: float = key(
        0.0,
        "tau: in training, a client adds tau log(C pi_c) to the logits of the C options, pi_c its own share of rows "
        "of option c; 0 adds nothing. Not for open answers.",
        valid=NOT_NEGATIVE,
    )
    stand_ins: StandInsConfig = section(StandInsConfig)
    async_: AsyncConfig = section(AsyncConfig, owner="server")
    regularizer: RegularizerConfig = section(RegularizerConfig)
    train: LocalConfig = section(LocalConfig)
    server: ServerConfig = section(ServerConfig, owner="server")
    aggregation: AggregationConfig = section(AggregationConfig)
    eval: EvaluatorConfig = section(EvaluatorConfig, owner="server")
    predict: PredictConfig = section(PredictConfig, owner="server", numbers=False)
    vision_cache: CacheConfig = section(CacheConfig, owner="site")
    network: NetworkConfig = section(NetworkConfig, owner="site", numbers=False)
    privacy: PrivacyConfig = section(PrivacyConfig)
    compression: CompressionConfig = section(CompressionConfig)
    judge: JudgeSection = section(JudgeSection, owner="server", numbers=False)
    hub: HubConfig = section(HubConfig, owner="server", numbers=False)


if TYPE_CHECKING:

    class FedMLLMConfig(_FedMLLMConfig):
        """``fedmllm``: everything of ours that FederatedScope has no section for."""

else:
    # The sections of single algorithms stand in the algorithms' own files.
    FedMLLMConfig = make_dataclass(
        "FedMLLMConfig",
        [(name, cls, section(cls)) for name, cls in algorithms.SECTIONS.items()],
        bases=(_FedMLLMConfig,),
        namespace={
            "__doc__": "``fedmllm``: everything of ours that FederatedScope has no section for.",
            "__module__": __name__,
        },
        frozen=True,
    )


def _with(config: Any, values: Mapping[str, Any]) -> Any:
    """A section with some of its keys replaced."""
    found = {n: _with(getattr(config, n), v) if isinstance(v, Mapping) else v for n, v in values.items()}
    return replace(config, **found)


@dataclass(frozen=True)
class Config:
    """A whole run."""

    seed: int = key(0, "Seed of everything that is drawn.", valid=Range(0, MAX_SEED))
    outdir: str = key("exp", "Folder of the run folders.", owner="site", numbers=False)
    expname: str = key("", "Name of the run folder; empty derives one.", owner="site", numbers=False)
    backend: str = key("torch", "Must be torch.", choices=("torch",), owner="site")
    use_gpu: bool = key(False, "Use an accelerator.", owner="site")
    device: int = key(-1, "Index of the accelerator; -1 is the first.", valid=Range(-1), owner="site")
    federate: FederateConfig = section(FederateConfig)
    data: DataConfig = section(DataConfig)
    model: ModelConfig = section(ModelConfig)
    train: TrainConfig = section(TrainConfig)
    trainer: TrainerConfig = section(TrainerConfig)
    eval: EvalConfig = section(EvalConfig, owner="server")
    early_stop: EarlyStopConfig = section(EarlyStopConfig, owner="server")
    fedmllm: FedMLLMConfig = section(FedMLLMConfig)

    @property
    def method(self) -> type[algorithms.Method]:
        """The server method, or the baseline."""
        return algorithms.METHODS[self.federate.method]

    @property
    def sampled_clients(self) -> int:
        """Clients in a round, by FederatedScope's rule: the rate wins over the number, neither means all."""
        federate = self.federate
        if not self.method.federated:
            return federate.client_num
        if 0 < federate.sample_client_rate <= 1:
            return max(1, int(federate.sample_client_rate * federate.client_num))
        return federate.sample_client_num if federate.sample_client_num > 0 else federate.client_num

    def for_client(self, client: int) -> Config:
        """The configuration as one client has it: with its own learning rate, steps and batch size.

        Args:
            client: id.
        """
        own = self.fedmllm.clients.get(f"client_{client}")
        return _with(self, own) if own else self

    @property
    def updates_per_round(self) -> int:
        """Client updates in a round: the buffer's, where there is one; the centralised baseline has one client."""
        if self.method.pooled:
            return 1
        return self.fedmllm.async_.buffer or self.sampled_clients

    @property
    def scenario_args(self) -> dict[str, Any]:
        """The parameters of the splitter."""
        return dict(self.data.splitter_args[0]) if self.data.splitter_args else {}

    @property
    def resampled_by(self) -> tuple[str, ...]:
        """Keys of rows that are resampled together in bootstrap intervals where they share one; none: row by row.

        What the scenario keeps together, else what the split of one's own rows does: ten pictures of one patient are
        no ten patients, whoever has been told so.
        """
        if together := self.scenario_args.get("keep_together"):
            return (str(together),)
        return self.split_together

    @property
    def split_together(self) -> tuple[str, ...]:
        """Columns of one's own rows that ``fedmllm.data.split`` keeps together."""
        split = self.fedmllm.data.get("split")
        named = (split.get("together") or ()) if isinstance(split, Mapping) else ()
        if isinstance(named, str):
            return (named,)
        return tuple(dict.fromkeys(map(str, named))) if isinstance(named, list | tuple) else ()

    @property
    def switches(self) -> dict[str, str]:
        """Every switch of the profile but the scenario's own, with the single overrides applied."""
        return profile_switches(self.fedmllm.profile) | {
            name: str(value) for name, value in self.fedmllm.switches.items() if name in SWITCHES
        }

    @property
    def scenario(self) -> str:
        """Name of the scenario: the splitter without our prefix."""
        return self.data.splitter.removeprefix(PREFIX)

    @property
    def counts_clients(self) -> bool:
        """Whether the rows are to say how many clients there are, and nobody has read them yet."""
        return self.federate.client_num == 0 and counts_itself(self.scenario)

    @property
    def missingness(self) -> str:
        """The scenario that takes modalities away: the scenario itself, or the one on top of given clients."""
        return str(self.scenario_args.get("scenario") or self.scenario) if self.scenario == GIVEN else self.scenario

    @property
    def scenario_settings(self) -> dict[str, Any]:
        """Parameters of the scenario, and the scenario switches that the user set."""
        chosen = {name: value for name, value in self.fedmllm.switches.items() if name in SCENARIO_SWITCHES}
        return self.scenario_args | chosen

    @property
    def init_seed(self) -> int:
        """Seed of the LoRA initialisation."""
        return self.model.fedmllm.init_seed if self.model.fedmllm.init_seed >= 0 else self.seed

    @property
    def server_lr(self) -> float:
        """Server learning rate, with the method's default filled in."""
        if self.fedmllm.server.lr >= 0:
            return self.fedmllm.server.lr
        return self.method.default_lr
