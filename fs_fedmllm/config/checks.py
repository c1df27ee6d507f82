"""What cannot mean anything is refused before anything heavy starts.

What one section asks of the others stands in the section's module, as ``<section>_faults``; what a method or a
regulariser asks, with the algorithm. Here is what belongs to none of them.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any

from fs_fedmllm.algorithms import REGULARIZERS
from fs_fedmllm.config.aggregation import aggregation_faults
from fs_fedmllm.config.asynchronous import async_faults
from fs_fedmllm.config.clients import client_id
from fs_fedmllm.config.compression import compression_faults
from fs_fedmllm.config.hub import hub_faults
from fs_fedmllm.config.metric_paths import metric_faults, named_metrics
from fs_fedmllm.config.missing_modalities import missing_modality_faults
from fs_fedmllm.config.model import model_faults
from fs_fedmllm.config.nearest import nearest
from fs_fedmllm.config.open_names import GIVEN, METRICS, SPLITTERS, misplaced, own_names
from fs_fedmllm.config.places import path_faults
from fs_fedmllm.config.privacy import privacy_faults
from fs_fedmllm.config.profiles import SCENARIO_SWITCHES, SWITCHES
from fs_fedmllm.config.schema import SCENARIO_ARGS, SPLITS, Config
from fs_fedmllm.config.test_sets import test_set_faults
from fs_fedmllm.errors import ConfigError
from fs_fedmllm.keys import ANY, Range, is_number, key_name


def check(config: Config, where: str = "configuration") -> None:
    """Cross-field checks: what cannot mean anything is refused before anything heavy starts.

    Raises:
        ConfigError: names the keys that contradict each other and what to change.
    """
    for fault in faults(config):
        raise ConfigError(f"{where}: {fault}")


def faults(config: Config) -> Iterator[str]:
    """A message, naming the keys, for everything that is wrong; later ones count on there being no earlier one.

    What asks how many clients there are waits where the rows are to say it, until they have.
    """
    yield from _value_faults(config)
    yield from path_faults(config)
    if not config.counts_clients:
        yield from _federation_faults(config)
    yield from _name_faults(config)
    yield from model_faults(config)
    if not config.counts_clients:
        yield from _cross_faults(config)
    yield from _trainer_faults(config)
    yield from missing_modality_faults(config)
    yield from _average_faults(config)
    yield from hub_faults(config)
    yield from _tracker_faults(config)
    if not config.counts_clients:
        yield from privacy_faults(config)
    yield from compression_faults(config)
    if not config.counts_clients:
        yield from aggregation_faults(config)
        yield from async_faults(config)
    yield from test_set_faults(config)
    yield from _evaluation_faults(config)


def _value_faults(config: Config) -> Iterator[str]:
    for path, value, valid in numbers(config):
        if not valid.holds(value):
            yield f"{path} is {value!r}; it must be {valid}."
    if len(config.data.splitter_args) > 1:
        yield "data.splitter_args must hold one mapping."
    if config.data.splitter_args and not isinstance(config.data.splitter_args[0], Mapping):
        yield "data.splitter_args must hold one mapping, for example [{alpha: 0.5}]."
    for path, word in texts_for_numbers(config):
        meant = float(word)
        written = repr(int(meant)) if meant.is_integer() and abs(meant) < 1e6 else repr(meant)
        yield f"{path} is {word!r}, which YAML reads as a text (1e-1 needs a point, 1.0e-1). Write {written}."
    if not config.data.type:
        yield "data.type is not set; name a data set, for example digits_triage."
    if not config.data.splitter:
        yield f"data.splitter is not set; choose one of {', '.join(SPLITTERS)}."


#: Names of ``fedmllm.report_to``.
TRACKERS = ("tensorboard", "wandb", "mlflow")


def _tracker_faults(config: Config) -> Iterator[str]:
    for name in config.fedmllm.report_to:
        if name not in TRACKERS:
            near = nearest(str(name), TRACKERS)
            yield f"fedmllm.report_to has {name!r}, which is not one of {', '.join(TRACKERS)}{near}"


def sampling_fault(federate: Any) -> str:
    """What to say of rounds with more clients than there are; empty where they have not."""
    if federate.sample_client_num <= federate.client_num:
        return ""
    return (
        f"federate.sample_client_num is {federate.sample_client_num}, which is above federate.client_num "
        f"({federate.client_num}). Lower the first or raise the second."
    )


def _federation_faults(config: Config) -> Iterator[str]:
    federate = config.federate
    if federate.client_num < 1:
        yield f"federate.client_num is {federate.client_num}; it must be at least 1."
    if fault := sampling_fault(federate):
        yield fault
    if federate.total_round_num > config.fedmllm.train.lr_horizon:
        yield (
            f"federate.total_round_num is {federate.total_round_num}, but the learning rate reaches 0 after "
            f"fedmllm.train.lr_horizon = {config.fedmllm.train.lr_horizon} rounds. Raise the latter too."
        )
    if config.early_stop.patience != 0:
        yield "early_stop.patience must be 0: these runs end at federate.total_round_num and keep the best round."
    if not federate.make_global_eval and federate.method not in ("local", "global"):
        yield (
            "federate.make_global_eval is False, but our runs are evaluated on the server. Leave it out, or set it to "
            "True."
        )
    for name in config.fedmllm.clients:
        if client_id(name) > federate.client_num:
            yield f"{name} has settings of its own, but federate.client_num is {federate.client_num}."
    if config.fedmllm.clients and config.method.pooled:
        yield (
            f"federate.method {federate.method} trains on all rows in one place, so no client can have settings of "
            "its own. Leave fedmllm.clients (--client_cfg) out."
        )
    distributed = federate.mode == "distributed"
    if distributed and not config.method.federated:
        yield (
            f"federate.method {federate.method} has no meaning with federate.mode distributed: "
            "it needs every client's rows, or their test scores, in one place. Run it standalone, or take fedavg."
        )
    if distributed and config.fedmllm.checkpoint_every != 1:
        yield (
            f"fedmllm.checkpoint_every is {config.fedmllm.checkpoint_every}; with federate.mode distributed it must "
            "be 1, for clients go on from the round that the server has saved."
        )
    if distributed and config.fedmllm.replay:
        yield "fedmllm.replay repeats a run on one machine; leave it out with federate.mode distributed."
    if distributed and config.fedmllm.privacy.dp.sampling == "poisson":
        yield (
            "fedmllm.privacy.dp.sampling is poisson, but the rounds of a run with federate.mode distributed have a "
            "fixed number of clients. Use fixed, or run it standalone."
        )
    if config.fedmllm.replay and not config.method.federated:
        yield (
            f"fedmllm.replay names each round's clients, and federate.method {federate.method} has no rounds of "
            "clients."
        )
    if config.fedmllm.network.min_clients > config.sampled_clients > 0:
        yield (
            f"fedmllm.network.min_clients is {config.fedmllm.network.min_clients}, but a round has "
            f"{config.sampled_clients} clients. Lower it."
        )


def _average_faults(config: Config) -> Iterator[str]:
    count, total = config.fedmllm.average_last, config.federate.total_round_num
    if not count:
        return
    if not config.method.has_global:
        yield (
            f"fedmllm.average_last is {count}, and federate.method {config.federate.method} has no global adapter. "
            "Set it to 0."
        )
    if count > total:
        yield f"fedmllm.average_last is {count}, and federate.total_round_num is {total}. Lower the first."
    if config.fedmllm.aggregation.lora == "exact":
        yield (
            f"fedmllm.average_last is {count}, and fedmllm.aggregation.lora exact rotates the factors' basis in every "
            "round, so that their mean over rounds means nothing. Set average_last to 0, or lora to factors."
        )


def _name_faults(config: Config) -> Iterator[str]:
    known_args = (*own_names(config.scenario), *SCENARIO_ARGS)
    for name in config.scenario_args:
        if name not in (*known_args, *SCENARIO_SWITCHES):
            yield (
                f"unknown parameter {name!r} in data.splitter_args{nearest(str(name), known_args)} "
                f"Known: {', '.join(known_args)}."
            )
    if config.scenario == GIVEN and not str(config.scenario_args.get("client") or "").strip():
        yield (
            "data.splitter fedmllm_given needs the column that says which client a row belongs to: "
            "data.splitter_args: [{client: hospital}]."
        )
    for name in ("client", "scenario"):
        if not isinstance(config.scenario_args.get(name, ""), str):
            yield f"data.splitter_args: {name} is {config.scenario_args[name]!r}; write a text."
    if fault := misplaced(config.scenario, config.scenario_args):
        yield f"data.splitter_args: {fault}."
    for name, value in config.fedmllm.switches.items():
        if name in SCENARIO_SWITCHES:
            continue  # the scenario checks the value
        if name not in SWITCHES:
            yield (
                f"unknown switch 'fedmllm.switches.{name}'{nearest(str(name), [*SWITCHES, *SCENARIO_SWITCHES])} "
                f"Known: {', '.join([*SWITCHES, *SCENARIO_SWITCHES])}."
            )
        if str(value) not in SWITCHES[name]:
            yield f"fedmllm.switches.{name} is {value!r}, which is not one of {', '.join(SWITCHES[name])}."


def _trainer_faults(config: Config) -> Iterator[str]:
    train, kind = config.fedmllm.train, config.fedmllm.regularizer.type
    if train.sft and train.backend != "trl":
        yield (
            f"fedmllm.train.sft is for TRL's trainer, and fedmllm.train.backend is {train.backend}. Set it to trl, or "
            "take the fields out."
        )
    if train.backend == "trl" and REGULARIZERS[kind].represents:
        yield (
            f"fedmllm.regularizer.type {kind} compares representations of rows, which fedmllm.train.backend trl does "
            "not show. Use the backend lean."
        )


def _cross_faults(config: Config) -> Iterator[str]:
    if config.missingness == "cross":
        args, clients = config.scenario_args, config.federate.client_num
        image, text = args.get("image_clients"), args.get("text_clients")
        for name, count in (("image_clients", image), ("text_clients", text)):
            if count is not None and (type(count) is not int or count < 0):
                yield f"data.splitter_args: {name} must be a whole number of 0 or more, got {count!r}."
        if image is None and text is None:
            yield "the cross scenario needs image_clients in data.splitter_args."
        total = (image or 0) + (text or 0)
        if image is not None and text is not None and total != clients:
            yield (
                f"data.splitter_args has {image} image + {text} text clients, but federate.client_num is "
                f"{clients}. Make them add up."
            )


def _evaluation_faults(config: Config) -> Iterator[str]:
    key_split, _, key_metric = config.eval.best_res_update_round_wise_key.partition("_")
    if key_split not in SPLITS or not key_metric:
        yield "eval.best_res_update_round_wise_key must be a split and a metric, for example val_macro_f1."
    further = config.fedmllm.eval.metrics
    yield from metric_faults(further)
    further = named_metrics(further)  # which figures a file gives, nobody knows before it computes them
    # Answers of a kind are scored apart (open_acc); the slices are there for every round only if always wanted.
    sliced = key_metric.startswith(("image_", "text_"))
    if sliced and config.fedmllm.eval.slices != "always":
        yield (
            f"eval.best_res_update_round_wise_key is {config.eval.best_res_update_round_wise_key!r}, which needs "
            "fedmllm.eval.slices: always."
        )
    if not sliced and key_metric not in (*METRICS, *further) and not key_metric.endswith("_acc"):
        yield (
            f"eval.best_res_update_round_wise_key is {config.eval.best_res_update_round_wise_key!r}, and no "
            f"evaluation has a metric {key_metric!r}{nearest(key_metric, METRICS)} Known: "
            f"{', '.join((*METRICS, *further))}."
        )


_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")


def texts_for_numbers(config: Config) -> Iterator[tuple[str, str]]:
    """Texts that look like numbers, with their keys, among the values whose kind no schema knows.

    Elsewhere the schema says that a number is meant, and such a text is taken as one.
    """
    places: dict[str, Any] = {
        "data.splitter_args": {
            k: v for k, v in config.scenario_args.items() if k not in ("by", "keep_together", "client")
        },
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
            yield from numbers(value, f"{prefix}{key_name(f.name)}.")
        elif is_number(value):
            yield f"{prefix}{key_name(f.name)}", value, f.metadata.get("valid", ANY)
