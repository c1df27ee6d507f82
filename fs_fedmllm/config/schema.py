"""The schema as a whole: ``fedmllm``, and a run's configuration with what follows from it.

The keys outside ``fedmllm`` and ``model.fedmllm`` are FederatedScope's (:mod:`fs_fedmllm.config.host_sections`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, make_dataclass, replace
from typing import TYPE_CHECKING, Any

from fs_fedmllm import algorithms
from fs_fedmllm.config.aggregation import AggregationConfig
from fs_fedmllm.config.asynchronous import AsyncConfig
from fs_fedmllm.config.compression import CompressionConfig
from fs_fedmllm.config.host_sections import (
    DataConfig,
    EarlyStopConfig,
    EvalConfig,
    FederateConfig,
    ModelConfig,
    TrainConfig,
    TrainerConfig,
)
from fs_fedmllm.config.hub import HubConfig
from fs_fedmllm.config.judge import JudgeSection
from fs_fedmllm.config.missing_modalities import SAMPLERS, StandInsConfig
from fs_fedmllm.config.network import NetworkConfig
from fs_fedmllm.config.open_names import GIVEN, PREFIX, counts_itself
from fs_fedmllm.config.own_sections import (
    CacheConfig,
    EvaluatorConfig,
    LocalConfig,
    PredictConfig,
    RegularizerConfig,
    ServerConfig,
)
from fs_fedmllm.config.privacy import PrivacyConfig
from fs_fedmllm.config.profiles import PROFILES, SCENARIO_SWITCHES, SWITCHES, profile_switches
from fs_fedmllm.keys import MAX_SEED, NOT_NEGATIVE, PARALLEL, Range, key, section

METHODS = algorithms.METHODS
#: Splits that are evaluated.
SPLITS = ("val", "test")


#: What ``data.splitter_args`` may hold beside the switches; the scenarios check the values.
SCENARIO_ARGS = (
    *("alpha", "by", "keep_together", "beta", "image_clients", "text_clients", "p", "seed", "file_order"),
    *("client", "scenario"),
)


@dataclass(frozen=True)
class _FedMLLMConfig:
    profile: str = key("fixed", "Fidelity profile.", choices=PROFILES)
    switches: dict = key({}, "Single switches that override the profile.")
    prompt: str = key("original", "Prompt variant, in training and evaluation.", choices=("original", "augmented"))
    template: str = key("", "Prompt template: a name, or the path of a .yaml; empty takes the data set's own.")
    clients: dict = key(
        {},
        "Settings of single clients, under client_1, client_2...: train.optimizer.lr, train.local_update_steps and "
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
        "Processes that run client updates in parallel on the embedded engine, each on one CPU thread; "
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
        "How a round's clients are drawn: uniformly, or alternately one that has images and one that has texts.",
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


def column_names(named: Any) -> tuple[str, ...]:
    """Names of columns as a file has them: one, or a list."""
    if isinstance(named, str):
        return (named,) if named else ()
    return tuple(dict.fromkeys(map(str, named))) if isinstance(named, list | tuple) else ()


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
        """The configuration as one client has it: with its own learning rate, steps and batch size."""
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
        return self.kept_together or self.split_together

    @property
    def kept_together(self) -> tuple[str, ...]:
        """Keys of rows whose groups the scenario gives to one client."""
        return column_names(self.scenario_args.get("keep_together"))

    @property
    def split_together(self) -> tuple[str, ...]:
        """Columns of one's own rows that ``fedmllm.data.split`` keeps together."""
        split = self.fedmllm.data.get("split")
        return column_names(split.get("together")) if isinstance(split, Mapping) else ()

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
