"""The one configuration schema: frozen dataclasses with units and defaults.

A file is in FederatedScope's own YAML format, and the same file serves both engines. The keys outside
``fedmllm`` and ``model.fedmllm`` are FederatedScope's; this module mirrors those that the embedded engine
honours and refuses every other key by name. Cross-field checks are in :func:`check`.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from fs_fedmllm.errors import ConfigError
from fs_fedmllm.profiles import PROFILES, SCENARIO_SWITCHES, SWITCHES, profile_switches

METHODS = ("fedavg", "fedavgm", "fedadagrad", "fedadam", "fedyogi", "local", "global")
SPLITTERS = ("fedmllm_aligned", "fedmllm_missing", "fedmllm_cross", "fedmllm_hybrid")
#: Splits that are evaluated.
SPLITS = ("val", "test")


#: What ``data.splitter_args`` may hold beside the switches; the scenarios check the values.
SCENARIO_ARGS = ("alpha", "by", "keep_together", "beta", "image_clients", "text_clients", "p", "seed", "file_order")
#: Metrics of an evaluation, over all tasks; each after its split and an underscore.
METRICS = ("acc", "macro_f1", "weighted_f1", "auc", "auc_hard", "open_acc", "closed_acc", "loss", "total")
#: Sections of FederatedScope that mean nothing to our runs.
FOREIGN_SECTIONS = (
    *("aggregator", "asyn", "attack", "criterion", "dataloader", "distribute", "feat_engr", "fedopt", "fedprox"),
    *("fedsageplus", "fedswa", "finetune", "flitplus", "gcflplus", "grad", "hpo", "nbafl", "personalization"),
    *("quantization", "regularizer", "sgdmf", "vertical", "wandb"),
)


@dataclass(frozen=True)
class Range:
    """Values that a number may have: an interval, and perhaps one number outside it that means "by default"."""

    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False
    default: float | None = None

    def holds(self, value: float) -> bool:
        """Whether the number is allowed; infinite ones and NaN never are."""
        if value == self.default:
            return True
        low = value > self.low if self.open_low else value >= self.low
        high = value < self.high if self.open_high else value <= self.high
        return math.isfinite(value) and low and high

    def __str__(self) -> str:
        if math.isinf(self.high):
            text = f"{'above' if self.open_low else 'at least'} {self.low:g}" if self.low > -math.inf else "finite"
        else:
            text = f"in {'(' if self.open_low else '['}{self.low:g}, {self.high:.10g}{')' if self.open_high else ']'}"
        return text if self.default is None else f"{text}, or {self.default:g}"


#: torch and numpy both take seeds up to this one; FederatedScope seeds numpy's older generator.
MAX_SEED = 2**32 - 1
ANY = Range()
POSITIVE = Range(0, open_low=True)
NOT_NEGATIVE = Range(0)
ONE_OR_MORE = Range(1)
SHARE = Range(0, 1)
DECAY = Range(0, 1, open_high=True)


def key(default: Any, doc: str, *, unit: str = "", choices: Sequence[str] = (), valid: Range = ANY) -> Any:
    """A configuration field: its default, what it means, its unit and its allowed values."""
    metadata = {"doc": doc, "unit": unit, "choices": tuple(choices), "valid": valid}
    if isinstance(default, dict | list):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class FederateConfig:
    """``federate``: FederatedScope's section of the federation."""

    mode: str = key("standalone", "How the federation runs.", choices=("standalone", "distributed"))
    method: str = key("fedavg", "Server method, or one of the baselines local and global.", choices=METHODS)
    client_num: int = key(0, "Clients in the federation; 0 is refused.", unit="clients")
    sample_client_num: int = key(
        -1, "Clients drawn in a round; -1 takes all.", unit="clients", valid=Range(1, default=-1)
    )
    sample_client_rate: float = key(
        -1.0, "The same as a share of the clients; it wins when both are set.", valid=Range(0, 1, True, default=-1)
    )
    total_round_num: int = key(50, "Rounds to run.", unit="rounds", valid=ONE_OR_MORE)
    make_global_eval: bool = key(False, "Evaluate on the server. Needed by our runs.")
    share_local_model: bool = key(False, "One model for all clients. Our runs always share the base.")
    save_to: str = key("", "File for a further copy of the final adapter, as safetensors.")
    restore_from: str = key("", "An adapter to start from: a safetensors file, or the folder that holds it.")


@dataclass(frozen=True)
class DataConfig:
    """``data``: the data set and the scenario that splits it."""

    type: str = key("", "Name of the data set.")
    root: str = key("data", "Folder that holds the data set; the embedded ones need none.")
    splitter: str = key("", "Scenario.", choices=SPLITTERS)
    splitter_args: list = key(
        [], "One mapping with the scenario's parameters: alpha, by, beta, image_clients, p, seed..."
    )


@dataclass(frozen=True)
class LoraConfig:
    """``model.fedmllm.lora``: low-rank adaptation (Hu et al. 2022)."""

    r: int = key(8, "Rank.", valid=ONE_OR_MORE)
    alpha: float = key(8.0, "Scale is alpha / r.", valid=POSITIVE)
    dropout: float = key(0.05, "Dropout in front of the A factor, training only.", valid=DECAY)
    target: str = key(
        r".*(language_model|text_model|llm\.model)\.layers\.(\d+)\.self_attn\.(q_proj|k_proj|v_proj|o_proj)",
        "Regular expression over module names; its group of digits is the layer index.",
    )


@dataclass(frozen=True)
class ModelOptions:
    """``model.fedmllm``: what a model builder may know (FederatedScope shows it ``cfg.model`` only)."""

    path: str = key("tiny", "'tiny' (the embedded model), a folder, or a hub id.")
    revision: str = key("", "Hub revision; empty is the default branch.")
    dtype: str = key("float32", "Precision of the frozen base.", choices=("float32", "bfloat16", "float16"))
    trust_remote_code: bool = key(False, "Run code that comes with the checkpoint. Off unless you set it.")
    init_seed: int = key(
        -1, "Seed of the LoRA initialisation; -1 takes the run's seed.", valid=Range(0, MAX_SEED, default=-1)
    )
    modules_to_save: list = key([], "Modules trained and sent in full beside LoRA (the authors send two).")
    lora: LoraConfig = field(default_factory=LoraConfig)


@dataclass(frozen=True)
class ModelConfig:
    """``model``."""

    type: str = key("fedmllm", "Must be fedmllm.", choices=("fedmllm",))
    fedmllm: ModelOptions = field(default_factory=ModelOptions)


@dataclass(frozen=True)
class OptimizerConfig:
    """``train.optimizer``: a client's local optimizer; fresh in every turn."""

    type: str = key("AdamW", "Local optimizer.", choices=("AdamW",))
    lr: float = key(2.0e-5, "Base learning rate, before the schedule across rounds.", valid=NOT_NEGATIVE)


@dataclass(frozen=True)
class TrainConfig:
    """``train``: how long a client trains in its turn."""

    local_update_steps: int = key(
        1, "Optimizer steps (batch) or passes over the client's rows (epoch).", valid=ONE_OR_MORE
    )
    batch_or_epoch: str = key("batch", "Unit of local_update_steps.", choices=("batch", "epoch"))
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)


@dataclass(frozen=True)
class TrainerConfig:
    """``trainer``."""

    type: str = key("fedmllm", "Must be fedmllm.", choices=("fedmllm",))


@dataclass(frozen=True)
class EvalConfig:
    """``eval``."""

    freq: int = key(1, "Evaluate after every freq-th round.", unit="rounds", valid=ONE_OR_MORE)
    metrics: list = key([], "Names that FederatedScope's monitor reports (host only).")
    best_res_update_round_wise_key: str = key("val_loss", "The metric that picks the best round.")


@dataclass(frozen=True)
class EarlyStopConfig:
    """``early_stop``."""

    patience: int = key(0, "Must be 0: runs end at total_round_num.", unit="evaluations")


@dataclass(frozen=True)
class RegularizerConfig:
    """``fedmllm.regularizer``: orthogonal to the server method (Table 10 of the paper)."""

    type: str = key("none", "Client regulariser.", choices=("none", "fedprox", "adaptive"))
    gamma_max: float = key(0.1, "Largest coefficient of the adaptive regulariser (equation 3).", valid=NOT_NEGATIVE)
    skip_layers: int = key(
        4, "S: the first and last S language layers are left free.", unit="layers", valid=NOT_NEGATIVE
    )
    mu: float = key(
        0.01, "FedProx: the penalty is mu / 2 times the squared distance, on every layer.", valid=NOT_NEGATIVE
    )


@dataclass(frozen=True)
class LocalConfig:
    """``fedmllm.train``: the details of a client's turn."""

    batch_size: int = key(4, "Rows behind one optimizer step.", unit="rows", valid=ONE_OR_MORE)
    micro_batch_size: int = key(
        0, "Rows in one forward pass; 0 takes the whole batch at once.", unit="rows", valid=NOT_NEGATIVE
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
    gradient_checkpointing: bool = key(False, "Trade compute for activation memory.")


@dataclass(frozen=True)
class ServerConfig:
    """``fedmllm.server``: the server optimizer."""

    lr: float = key(
        -1.0,
        "Server learning rate; -1 takes 1 for FedAvg and FedAvgM, 1e-3 for the others.",
        valid=Range(0, default=-1),
    )
    beta1: float = key(0.9, "Momentum of FedAvgM, first moment of the adaptive methods.", valid=DECAY)
    beta2: float = key(0.99, "Second moment of FedAdam and FedYogi.", valid=DECAY)
    tau: float = key(1.0e-3, "Adaptivity; the second moment starts at its square.", valid=POSITIVE)


@dataclass(frozen=True)
class EvaluationConfig:
    """``fedmllm.eval``."""

    batch_size: int = key(64, "Rows in one forward pass.", unit="rows", valid=ONE_OR_MORE)
    zero_shot: bool = key(True, "Evaluate before round 0.")
    slices: str = key(
        "ends",
        "When the test rows are also shown with one modality only: never, at both ends of the run, or always.",
        choices=("never", "ends", "always"),
    )
    max_new_tokens: int = key(16, "Longest generated answer.", unit="tokens", valid=ONE_OR_MORE)
    limit: int = key(
        0,
        "Evaluate on so many rows of a split, evenly spaced (for trying things out); 0 is all.",
        unit="rows",
        valid=NOT_NEGATIVE,
    )


@dataclass(frozen=True)
class CacheConfig:
    """``fedmllm.vision_cache``: outputs of the frozen vision tower, computed once per image."""

    enabled: bool = key(True, "Off by itself when anything that feeds it is trainable.")
    memory_mib: int = key(512, "Budget in memory.", unit="MiB", valid=NOT_NEGATIVE)
    folder: str = key("", "Folder for a cache on disk; empty keeps it in memory only.")


@dataclass(frozen=True)
class FedMLLMConfig:
    """``fedmllm``: everything of ours that FederatedScope has no section for."""

    profile: str = key("fixed", "Fidelity profile.", choices=PROFILES)
    switches: dict = key({}, "Single switches that override the profile.")
    prompt: str = key("original", "Prompt variant, in training and evaluation.", choices=("original", "augmented"))
    template: str = key("", "Prompt template: a name, or the path of a .yaml; empty takes the data set's own.")
    data: dict = key({}, "Options of the data set's adapter.")
    threads: int = key(0, "CPU threads; 0 takes what the machine offers.", unit="threads", valid=NOT_NEGATIVE)
    checkpoint_every: int = key(
        1, "Save the run's state after every n-th round; 0 never.", unit="rounds", valid=NOT_NEGATIVE
    )
    regularizer: RegularizerConfig = field(default_factory=RegularizerConfig)
    train: LocalConfig = field(default_factory=LocalConfig)
    server: ServerConfig = field(default_factory=ServerConfig)
    eval: EvaluationConfig = field(default_factory=EvaluationConfig)
    vision_cache: CacheConfig = field(default_factory=CacheConfig)


@dataclass(frozen=True)
class Config:
    """A whole run."""

    seed: int = key(0, "Seed of everything that is drawn.", valid=Range(0, MAX_SEED))
    outdir: str = key("exp", "Folder of the run folders.")
    expname: str = key("", "Name of the run folder; empty derives one.")
    backend: str = key("torch", "Must be torch.", choices=("torch",))
    use_gpu: bool = key(False, "Use an accelerator.")
    device: int = key(-1, "Index of the accelerator; -1 is the first.", valid=Range(-1))
    federate: FederateConfig = field(default_factory=FederateConfig)
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    early_stop: EarlyStopConfig = field(default_factory=EarlyStopConfig)
    fedmllm: FedMLLMConfig = field(default_factory=FedMLLMConfig)

    @property
    def sampled_clients(self) -> int:
        """Clients in a round, by FederatedScope's rule: the rate wins over the number, neither means all."""
        federate = self.federate
        if federate.method in ("local", "global"):
            return federate.client_num
        if 0 < federate.sample_client_rate <= 1:
            return max(1, int(federate.sample_client_rate * federate.client_num))
        return federate.sample_client_num if federate.sample_client_num > 0 else federate.client_num

    @property
    def scenario_args(self) -> dict[str, Any]:
        """The parameters of the splitter."""
        return dict(self.data.splitter_args[0]) if self.data.splitter_args else {}

    @property
    def switches(self) -> dict[str, str]:
        """Every switch of the profile but the scenario's own, with the single overrides applied."""
        return profile_switches(self.fedmllm.profile) | {
            name: str(value) for name, value in self.fedmllm.switches.items() if name in SWITCHES
        }

    @property
    def scenario(self) -> str:
        """Name of the scenario: the splitter without our prefix."""
        return self.data.splitter.removeprefix("fedmllm_")

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
        return 1.0e-3 if self.federate.method in ("fedadagrad", "fedadam", "fedyogi") else 1.0


def _nearest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else "."


def _all_keys(cls: Any, prefix: str = "") -> list[str]:
    keys: list[str] = []
    for name, kind in typing.get_type_hints(cls).items():
        path = f"{prefix}{name}"
        keys += _all_keys(kind, path + ".") if dataclasses.is_dataclass(kind) else [path]
    return keys


def known_keys() -> list[str]:
    """Every key that a configuration may have, as a dotted path."""
    return _all_keys(Config)


_KINDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    list: "a list",
    dict: "a mapping",
}


def _coerce(value: Any, kind: Any, path: str, where: str) -> Any:
    """Bring a YAML value to its field's type; ``2e-5`` without a dot is text in YAML and is accepted as a number."""
    if kind is bool:
        if isinstance(value, bool):
            return value
        if isinstance(value, str) and value.lower() in ("true", "false"):
            return value.lower() == "true"
    elif kind is int:
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        if isinstance(value, float) and value.is_integer():
            return int(value)
        if isinstance(value, str) and value.lstrip("-").isdigit():
            return int(value)
    elif kind is float:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        if isinstance(value, str):
            try:
                return float(value)
            except ValueError:
                pass
    elif kind is str:
        if isinstance(value, str):
            return value
        if value is None:
            return ""
        if isinstance(value, int | float):
            return str(value)
    elif kind is list:
        if isinstance(value, list | tuple):
            return list(value)
    elif kind is dict and isinstance(value, Mapping):
        return dict(value)
    raise ConfigError(f"{where}: {path} must be {_KINDS[kind]}, got {value!r}.")


#: Sections that FederatedScope itself does not have.
_OURS = ("fedmllm.", "model.fedmllm.")


def unknown_key(path: str) -> str:
    """What to say of a key that is not ours."""
    if path.partition(".")[0] in FOREIGN_SECTIONS:
        return (
            f"unknown key {path!r}: a section of FederatedScope that the embedded engine does not honour. Remove it, "
            "or run in FederatedScope (--engine federatedscope)."
        )
    # Somebody who forgets a section, or puts a key in the wrong one, gets the key's name right.
    name = path.rpartition(".")[2]
    elsewhere = [known for known in known_keys() if known.rpartition(".")[2] == name]
    if elsewhere:
        return f"unknown key {path!r}; did you mean {' or '.join(map(repr, elsewhere))}?"
    sections = dict.fromkeys(known.rpartition(".")[0] for known in known_keys() if "." in known)
    return f"unknown key {path!r}{_nearest(path, [*known_keys(), *sections])}"


def _build(cls: Any, raw: Any, where: str, path: str = "", host: bool = False) -> Any:
    if not isinstance(raw, Mapping):
        raise ConfigError(f"{where}: {path or 'the file'} must be a mapping of keys to values, got {raw!r}.")
    hints = typing.get_type_hints(cls)
    values: dict[str, Any] = {}
    for name, value in raw.items():
        full = f"{path}.{name}" if path else str(name)
        if name not in hints:
            if host and not full.startswith(_OURS):
                continue
            raise ConfigError(f"{where}: {unknown_key(full)}")
        kind = hints[name]
        if dataclasses.is_dataclass(kind):
            values[name] = _build(kind, value if value is not None else {}, where, full, host)
            continue
        value = _coerce(value, kind, full, where)
        metadata = next(f.metadata for f in dataclasses.fields(cls) if f.name == name)
        choices = metadata.get("choices", ())
        if choices and isinstance(value, str):
            if full == "federate.method":
                value = value.lower()
            if value not in choices and not (value == "" and full == "data.splitter"):
                raise ConfigError(
                    f"{where}: {full} is {value!r}, which is not one of {', '.join(choices)}{_nearest(value, choices)}"
                )
        values[name] = value
    return cls(**values)


def from_mapping(raw: Mapping[str, Any], where: str = "configuration", *, host: bool = False) -> Config:
    """Build and check a configuration.

    Args:
        raw: nested mapping, as YAML gives it.
        where: file name for error messages.
        host: leave keys of FederatedScope's that we do not have to FederatedScope.

    Raises:
        ConfigError: an unknown key (with the nearest known one), a wrong type, or an impossible combination.
    """
    config: Config = _build(Config, raw, where, host=host)
    check(config, where)
    return config


def parse_override(text: str) -> Any:
    """The value of a word on the command line, as YAML reads it."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def apply_overrides(raw: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Apply ``key value key value ...``, FederatedScope's command-line form, to a nested mapping.

    Raises:
        ConfigError: an odd number of words, or a key through a value that is not a section.
    """
    if len(overrides) % 2:
        raise ConfigError(
            f"Overrides come in pairs, key then value; {overrides[-1]!r} has no value. Example: seed 7 eval.freq 5"
        )
    merged: dict[str, Any] = {k: v for k, v in raw.items()}
    for name, text in zip(overrides[::2], overrides[1::2], strict=True):
        node = merged
        *parents, last = name.split(".")
        for parent in parents:
            child = node.get(parent)
            if child is not None and not isinstance(child, Mapping):
                raise ConfigError(f"Override {name!r}: {parent!r} is a value, not a section.")
            node[parent] = dict(child or {})
            node = node[parent]
        node[last] = parse_override(text)
    return merged


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read a configuration file into a nested mapping.

    Raises:
        ConfigError: the file is missing, not readable or not YAML (with the line).
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"Cannot read the configuration {str(path)!r}: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"The configuration {str(path)!r} is not UTF-8 text.") from error
    try:
        raw = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" at line {mark.line + 1}" if mark is not None else ""
        raise ConfigError(f"{path} is not valid YAML{line}: {getattr(error, 'problem', error)}.") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{path} must be a mapping of keys to values.")
    return raw


def load(path: str | Path, overrides: Sequence[str] = (), *, host: bool = False) -> Config:
    """Read a file, apply overrides, check, and return the configuration; arguments as in :func:`from_mapping`."""
    return from_mapping(apply_overrides(read_yaml(path), overrides), str(path), host=host)


def to_mapping(config: Any) -> dict[str, Any]:
    """The configuration as a nested mapping of plain values, defaults included."""
    return dataclasses.asdict(config)


def check(config: Config, where: str = "configuration") -> None:
    """Cross-field checks: what cannot mean anything is refused before anything heavy starts.

    Raises:
        ConfigError: names the keys that contradict each other and what to change.
    """

    def refuse(condition: bool, message: str) -> None:
        if condition:
            raise ConfigError(f"{where}: {message}")

    for path, value, valid in _numbers(config):
        refuse(not valid.holds(value), f"{path} is {value!r}; it must be {valid}.")
    refuse(len(config.data.splitter_args) > 1, "data.splitter_args must hold one mapping.")
    refuse(
        bool(config.data.splitter_args) and not isinstance(config.data.splitter_args[0], Mapping),
        "data.splitter_args must hold one mapping, for example [{alpha: 0.5}].",
    )
    federate, args = config.federate, config.scenario_args
    refuse(not config.data.type, "data.type is not set; name a data set, for example digits_triage.")
    refuse(not config.data.splitter, f"data.splitter is not set; choose one of {', '.join(SPLITTERS)}.")
    refuse(federate.client_num < 1, f"federate.client_num is {federate.client_num}; it must be at least 1.")
    refuse(
        federate.sample_client_num > federate.client_num,
        f"federate.sample_client_num is {federate.sample_client_num}, which is above federate.client_num "
        f"({federate.client_num}). Lower the first or raise the second.",
    )
    refuse(
        config.early_stop.patience != 0,
        "early_stop.patience must be 0: these runs end at federate.total_round_num and keep the best round.",
    )
    for name in args:
        refuse(
            name not in (*SCENARIO_ARGS, *SCENARIO_SWITCHES),
            f"unknown parameter {name!r} in data.splitter_args{_nearest(str(name), SCENARIO_ARGS)} "
            f"Known: {', '.join(SCENARIO_ARGS)}.",
        )
    for name, value in config.fedmllm.switches.items():
        if name in SCENARIO_SWITCHES:
            continue  # the scenario checks the value
        refuse(
            name not in SWITCHES,
            f"unknown switch 'fedmllm.switches.{name}'{_nearest(str(name), [*SWITCHES, *SCENARIO_SWITCHES])} "
            f"Known: {', '.join([*SWITCHES, *SCENARIO_SWITCHES])}.",
        )
        refuse(
            str(value) not in SWITCHES[name],
            f"fedmllm.switches.{name} is {value!r}, which is not one of {', '.join(SWITCHES[name])}.",
        )
    if config.data.splitter == "fedmllm_cross":
        image, text = args.get("image_clients"), args.get("text_clients")
        for name, count in (("image_clients", image), ("text_clients", text)):
            refuse(
                count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 0),
                f"data.splitter_args: {name} must be a whole number of 0 or more, got {count!r}.",
            )
        refuse(image is None and text is None, "the cross scenario needs image_clients in data.splitter_args.")
        total = (image or 0) + (text or 0)
        refuse(
            image is not None and text is not None and total != federate.client_num,
            f"data.splitter_args has {image} image + {text} text clients, but federate.client_num is "
            f"{federate.client_num}. Make them add up.",
        )
    key_split, _, key_metric = config.eval.best_res_update_round_wise_key.partition("_")
    refuse(
        key_split not in SPLITS or not key_metric,
        "eval.best_res_update_round_wise_key must be a split and a metric, for example val_macro_f1.",
    )
    # Answers of a kind are scored apart (open_acc); the slices are there for every round only if always wanted.
    sliced = key_metric.startswith(("image_", "text_"))
    refuse(
        sliced and config.fedmllm.eval.slices != "always",
        f"eval.best_res_update_round_wise_key is {config.eval.best_res_update_round_wise_key!r}, which needs "
        "fedmllm.eval.slices: always.",
    )
    refuse(
        not sliced and key_metric not in METRICS and not key_metric.endswith("_acc"),
        f"eval.best_res_update_round_wise_key is {config.eval.best_res_update_round_wise_key!r}, and no evaluation "
        f"has a metric {key_metric!r}{_nearest(key_metric, METRICS)} Known: {', '.join(METRICS)}.",
    )


def _numbers(config: Any, prefix: str = "") -> Iterator[tuple[str, float, Range]]:
    """Every number of a configuration with its key and its range."""
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if dataclasses.is_dataclass(value):
            yield from _numbers(value, f"{prefix}{f.name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{prefix}{f.name}", value, f.metadata["valid"]


def describe() -> list[tuple[str, str, str, str]]:
    """The reference: (key, type, default, meaning) of every key, for the documentation and ``config --help``."""
    rows: list[tuple[str, str, str, str]] = []

    def walk(cls: Any, prefix: str) -> None:
        hints = typing.get_type_hints(cls)
        for f in dataclasses.fields(cls):
            kind = hints[f.name]
            if dataclasses.is_dataclass(kind):
                walk(kind, f"{prefix}{f.name}.")
                continue
            made: Any = f.default_factory
            default = made() if f.default is dataclasses.MISSING else f.default
            doc = str(f.metadata["doc"])
            if f.metadata["choices"]:
                doc += f" One of: {', '.join(f.metadata['choices'])}."
            if f.metadata["valid"] != ANY:
                doc += f" Must be {f.metadata['valid']}."
            if f.metadata["unit"]:
                doc += f" ({f.metadata['unit']})"
            name = kind.__name__ if not isinstance(kind, types.GenericAlias) else str(kind)
            rows.append((f"{prefix}{f.name}", name, repr(default), doc))

    walk(Config, "")
    return rows
