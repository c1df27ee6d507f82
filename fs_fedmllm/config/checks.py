"""Ranges and cross-field checks: what cannot mean anything is refused before anything heavy starts."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from fs_fedmllm.config.aggregation_checks import check_aggregation
from fs_fedmllm.config.clients import client_id
from fs_fedmllm.config.nearest import nearest
from fs_fedmllm.config.open_names import METRICS, OUTSIDE_METRICS, SPLITTERS, own_names
from fs_fedmllm.config.precision import PEFT_METHODS, REFUSED_METHODS
from fs_fedmllm.config.privacy_checks import privacy_faults
from fs_fedmllm.config.profiles import SCENARIO_SWITCHES, SWITCHES
from fs_fedmllm.config.schema import SCENARIO_ARGS, SPLITS, Config
from fs_fedmllm.errors import ConfigError
from fs_fedmllm.keys import ANY, Range


def check(config: Config, where: str = "configuration") -> None:
    """Cross-field checks: what cannot mean anything is refused before anything heavy starts.

    Raises:
        ConfigError: names the keys that contradict each other and what to change.
    """

    def refuse(condition: bool, message: str) -> None:
        if condition:
            raise ConfigError(f"{where}: {message}")

    for path, value, valid in numbers(config):
        refuse(not valid.holds(value), f"{path} is {value!r}; it must be {valid}.")
    refuse(len(config.data.splitter_args) > 1, "data.splitter_args must hold one mapping.")
    refuse(
        bool(config.data.splitter_args) and not isinstance(config.data.splitter_args[0], Mapping),
        "data.splitter_args must hold one mapping, for example [{alpha: 0.5}].",
    )
    for path, word in texts_for_numbers(config):
        meant = float(word)
        written = repr(int(meant)) if meant.is_integer() and abs(meant) < 1e6 else repr(meant)
        refuse(True, f"{path} is {word!r}, which YAML reads as a text (1e-1 needs a point, 1.0e-1). Write {written}.")
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
        federate.total_round_num > config.fedmllm.train.lr_horizon,
        f"federate.total_round_num is {federate.total_round_num}, but the learning rate reaches 0 after "
        f"fedmllm.train.lr_horizon = {config.fedmllm.train.lr_horizon} rounds. Raise the latter too.",
    )
    refuse(
        config.early_stop.patience != 0,
        "early_stop.patience must be 0: these runs end at federate.total_round_num and keep the best round.",
    )
    refuse(
        not federate.make_global_eval and federate.method not in ("local", "global"),
        "federate.make_global_eval is False, but our runs are evaluated on the server. Leave it out, or set it to "
        "True.",
    )
    for name in config.fedmllm.clients:
        refuse(
            client_id(name) > federate.client_num,
            f"{name} has settings of its own, but federate.client_num is {federate.client_num}.",
        )
    refuse(
        bool(config.fedmllm.clients) and config.method.pooled,
        f"federate.method {federate.method} trains on all rows in one place, so no client can have settings of its "
        "own. Leave fedmllm.clients (--client_cfg) out.",
    )
    distributed = federate.mode == "distributed"
    refuse(
        distributed and not config.method.federated,
        f"federate.method {federate.method} has no meaning with federate.mode distributed: "
        "it needs every client's rows, or their test scores, in one place. Run it standalone, or take fedavg.",
    )
    refuse(
        distributed and config.fedmllm.checkpoint_every != 1,
        f"fedmllm.checkpoint_every is {config.fedmllm.checkpoint_every}; with federate.mode distributed it must be 1, "
        "for clients go on from the round that the server has saved.",
    )
    weights = config.fedmllm.aggregation.client_weights
    refuse(
        distributed and weights in ("balanced", "complete"),
        f"fedmllm.aggregation.client_weights {weights} reads what every client's rows show, which the server of a run "
        "with federate.mode distributed does not know. Use default, samples or uniform.",
    )
    refuse(
        distributed and bool(config.fedmllm.replay),
        "fedmllm.replay repeats a run on one machine; leave it out with federate.mode distributed.",
    )
    refuse(
        bool(config.fedmllm.replay) and not config.method.federated,
        f"fedmllm.replay names each round's clients, and federate.method {federate.method} has no rounds of clients.",
    )
    refuse(
        config.fedmllm.network.min_clients > config.sampled_clients > 0,
        f"fedmllm.network.min_clients is {config.fedmllm.network.min_clients}, but a round has "
        f"{config.sampled_clients} clients. Lower it.",
    )
    known_args = (*own_names(config.scenario), *SCENARIO_ARGS)
    for name in args:
        refuse(
            name not in (*known_args, *SCENARIO_SWITCHES),
            f"unknown parameter {name!r} in data.splitter_args{nearest(str(name), known_args)} "
            f"Known: {', '.join(known_args)}.",
        )
    for name, value in config.fedmllm.switches.items():
        if name in SCENARIO_SWITCHES:
            continue  # the scenario checks the value
        refuse(
            name not in SWITCHES,
            f"unknown switch 'fedmllm.switches.{name}'{nearest(str(name), [*SWITCHES, *SCENARIO_SWITCHES])} "
            f"Known: {', '.join([*SWITCHES, *SCENARIO_SWITCHES])}.",
        )
        refuse(
            str(value) not in SWITCHES[name],
            f"fedmllm.switches.{name} is {value!r}, which is not one of {', '.join(SWITCHES[name])}.",
        )
    _check_model(config, refuse)
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
    _check_hub(config, refuse)
    for fault in privacy_faults(config):
        refuse(True, fault)
    compression = config.fedmllm.compression
    refuse(
        not config.method.has_global and (compression.upload, compression.download) != ("float32", "float32"),
        "federate.method is local, and nothing is sent in it; leave fedmllm.compression.upload and "
        "fedmllm.compression.download at float32.",
    )
    check_aggregation(config, refuse)
    key_split, _, key_metric = config.eval.best_res_update_round_wise_key.partition("_")
    refuse(
        key_split not in SPLITS or not key_metric,
        "eval.best_res_update_round_wise_key must be a split and a metric, for example val_macro_f1.",
    )
    further = config.fedmllm.eval.metrics
    for name in further:
        refuse(
            name not in OUTSIDE_METRICS,
            f"fedmllm.eval.metrics names {name!r}, which is no metric that another package added"
            + (f"{nearest(str(name), OUTSIDE_METRICS)} " if OUTSIDE_METRICS else ". ")
            + (f"There are {', '.join(OUTSIDE_METRICS)}." if OUTSIDE_METRICS else "There is none; leave it empty."),
        )
    # Answers of a kind are scored apart (open_acc); the slices are there for every round only if always wanted.
    sliced = key_metric.startswith(("image_", "text_"))
    refuse(
        sliced and config.fedmllm.eval.slices != "always",
        f"eval.best_res_update_round_wise_key is {config.eval.best_res_update_round_wise_key!r}, which needs "
        "fedmllm.eval.slices: always.",
    )
    refuse(
        not sliced and key_metric not in (*METRICS, *further) and not key_metric.endswith("_acc"),
        f"eval.best_res_update_round_wise_key is {config.eval.best_res_update_round_wise_key!r}, and no evaluation "
        f"has a metric {key_metric!r}{nearest(key_metric, METRICS)} Known: {', '.join((*METRICS, *further))}.",
    )


def _check_model(config: Config, refuse: Callable[[bool, str], None]) -> None:
    model = config.model.fedmllm
    reason = REFUSED_METHODS.get(model.peft.lower(), "")
    refuse(bool(reason), f"model.fedmllm.peft is {model.peft!r}, which cannot be federated: {reason}. Use lora.")
    refuse(
        model.peft not in PEFT_METHODS,
        f"model.fedmllm.peft is {model.peft!r}, which is not one of {', '.join(PEFT_METHODS)}"
        f"{nearest(model.peft, PEFT_METHODS)}",
    )
    refuse(
        "lora" not in model.federated,
        "model.fedmllm.federated must name lora: the adapter of the language layers is what clients share. Further "
        "groups come beside it, for example [lora, projector].",
    )
    quantized = model.quantization.type
    refuse(
        quantized != "none" and model.peft in ("loha", "lokr"),
        f"model.fedmllm.peft {model.peft} needs a base that is not quantised. Use lora, or set "
        "model.fedmllm.quantization.type: none.",
    )
    refuse(
        model.attention == "flash_attention_2" and (not config.use_gpu or model.dtype == "float32"),
        "model.fedmllm.attention flash_attention_2 needs use_gpu: True and model.fedmllm.dtype bfloat16 or float16; "
        "sdpa works everywhere.",
    )
    refuse(
        bool(model.device_map) and not config.use_gpu,
        f"model.fedmllm.device_map {model.device_map} spreads the model over accelerators; set use_gpu: True.",
    )


_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")

#: ``owner/name`` on a hub.
_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def _check_hub(config: Config, refuse: Callable[[bool, str], None]) -> None:
    hub = config.fedmllm.hub
    refuse(
        bool(hub.repo) and _REPO.fullmatch(hub.repo) is None,
        f"fedmllm.hub.repo is {hub.repo!r}; write owner/name.",
    )
    refuse(
        bool(hub.repo) and not config.method.has_global,
        "fedmllm.hub.repo is set, but federate.method local has no global adapter to push. Leave it empty.",
    )
    refuse(
        bool(hub.resume_from) and bool(config.federate.restore_from),
        "fedmllm.hub.resume_from and federate.restore_from are both set: the first goes on with a run, the second "
        "starts one. Leave one of them empty.",
    )
    refuse(
        hub.checkpoint and config.fedmllm.privacy.dp.enabled,
        "fedmllm.hub.checkpoint would publish what clients keep between rounds, which differential privacy does not "
        "cover. Set it to False, or fedmllm.privacy.dp.enabled to False.",
    )


def texts_for_numbers(config: Config) -> Iterator[tuple[str, str]]:
    """Texts that look like numbers, with their keys, among the values whose kind no schema knows.

    Elsewhere the schema says that a number is meant, and such a text is taken as one.
    """
    places: dict[str, Any] = {
        "data.splitter_args": {k: v for k, v in config.scenario_args.items() if k not in ("by", "keep_together")},
        "model.fedmllm.image": config.model.fedmllm.image,
    }
    waiting: list[tuple[str, Any]] = list(places.items())
    while waiting:
        path, value = waiting.pop(0)
        if isinstance(value, Mapping):
            waiting += [(f"{path}: {k}" if path in places else f"{path}.{k}", v) for k, v in value.items()]
        elif isinstance(value, list | tuple):
            waiting += [(path, item) for item in value]
        elif isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
            yield path, value


def numbers(config: Any, prefix: str = "") -> Iterator[tuple[str, float, Range]]:
    """Every number of a configuration with its key and its range."""
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if dataclasses.is_dataclass(value):
            yield from numbers(value, f"{prefix}{f.name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{prefix}{f.name}", value, f.metadata.get("valid", ANY)
