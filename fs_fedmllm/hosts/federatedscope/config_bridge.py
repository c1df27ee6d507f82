"""Our schema as FederatedScope's config nodes, and back.

FederatedScope merges a YAML file into nodes that exist beforehand; ours are made from the dataclasses' defaults,
so that presets stay short. A running job's node is turned back into :class:`fs_fedmllm.config.Config` and checked
by the same code as on the embedded engine.
"""

from __future__ import annotations

import dataclasses
import typing
from typing import Any

from fs_fedmllm import config as schema
from fs_fedmllm.config.aggregation import RULES
from fs_fedmllm.errors import ConfigError
from fs_fedmllm.profiles import SCENARIO_SWITCHES, SWITCHES

#: Prefix of the method names that only our workers answer to. A job of ours is renamed when its data is built, so
#: that FederatedScope builds its own workers for its own names and other jobs notice nothing.
PREFIX = "fedmllm_"


def extend_config(cfg: Any) -> None:
    """Add ``fedmllm`` and ``model.fedmllm`` to FederatedScope's global config; registered as a config extension."""
    from federatedscope.core.configs.config import CN

    def node(instance: Any) -> Any:
        made = CN()
        for field in dataclasses.fields(instance):
            value = getattr(instance, field.name)
            made[field.name] = node(value) if dataclasses.is_dataclass(value) else value
        return made

    cfg.fedmllm = node(schema.FedMLLMConfig())
    # FederatedScope's command line cannot add keys, so every switch is there with an empty value: "by profile".
    cfg.fedmllm.switches = CN({name: "" for name in (*SWITCHES, *SCENARIO_SWITCHES)})
    cfg.fedmllm.data = CN(new_allowed=True)
    cfg.model.fedmllm = node(schema.ModelOptions())
    cfg.model.fedmllm.image = CN(new_allowed=True)
    # Ahead of FederatedScope's own check, which silently replaces a sample_client_num above client_num.
    cfg.__cfg_check_funcs__.insert(0, _check_sampling)


def _check_sampling(cfg: Any) -> None:
    if is_ours(cfg) and cfg.federate.sample_client_num > cfg.federate.client_num > 0:
        raise ConfigError(
            f"federate.sample_client_num is {cfg.federate.sample_client_num}, which is above federate.client_num "
            f"({cfg.federate.client_num}). Lower the first or raise the second."
        )


def is_ours(cfg: Any) -> bool:
    """Whether a job asks for our trainer."""
    return bool(cfg.trainer.type == "fedmllm")


#: FederatedScope's names of robust rules and ours.
_ROBUST_RULES = {"krum": "krum", "median": "median", "trimmedmean": "trimmed_mean", "normbounding": "norm_bounded"}

#: FederatedScope's default of ``train.optimizer.lr``, meant for SGD; a file that leaves the key out gets our default.
_HOST_DEFAULT_LR = 0.1

#: FederatedScope's default of ``distribute.server_host`` and ``server_port``; a file that sets them means them.
_HOST_DEFAULT_PLACE = ("0.0.0.0", 50050)

#: What FederatedScope keeps in every node beside its keys.
_BOOKKEEPING = ("__cfg_check_funcs__", "__help_info__", "is_ready_for_run")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items() if name not in _BOOKKEEPING}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _collect(cfg: Any, cls: Any) -> dict[str, Any]:
    collected: dict[str, Any] = {}
    for name, kind in typing.get_type_hints(cls).items():
        value = getattr(cfg, name)
        collected[name] = _collect(value, kind) if dataclasses.is_dataclass(kind) else _plain(value)
    return collected


def to_config(cfg: Any) -> schema.Config:
    """The job's configuration in our schema, checked.

    Raises:
        ConfigError: as on the embedded engine, and for FederatedScope options that contradict our runs.
    """
    if cfg.fedprox.use:
        raise ConfigError(
            "fedprox.use is FederatedScope's own regulariser and does not reach our trainer. Set "
            "fedmllm.regularizer.type: fedprox (and fedmllm.regularizer.mu) instead."
        )
    if cfg.asyn.use or cfg.federate.online_aggr or cfg.federate.use_ss or cfg.federate.process_num > 1:
        raise ConfigError(
            "asyn.use, federate.online_aggr, federate.use_ss and federate.process_num > 1 are not available with "
            "trainer.type fedmllm; leave them at their defaults."
        )
    if cfg.federate.mode == "distributed" and not cfg.distribute.use:
        raise ConfigError(
            "federate.mode is distributed, but distribute.use is False, with which FederatedScope drops that section. "
            "Set distribute.use: True and distribute.role, or start the site with fs-fedmllm server or client."
        )
    if cfg.federate.mode == "distributed" and cfg.distribute.role not in ("server", "client"):
        raise ConfigError(
            f"distribute.role is {cfg.distribute.role!r}; it must be server or client. Write it into the file: "
            "FederatedScope's command line loses values that begin with 'client'. Or start the site with fs-fedmllm "
            "server or fs-fedmllm client."
        )
    if cfg.fedmllm.privacy.dp.sampling != "fixed":
        raise ConfigError(
            "fedmllm.privacy.dp.sampling is poisson, but FederatedScope waits for a fixed number of clients in every "
            "round. Use fixed, or run the file with --engine embedded."
        )
    if cfg.fedmllm.replay:
        raise ConfigError(
            "fedmllm.replay may name other numbers of clients from round to round, but FederatedScope waits for a "
            "fixed one. Run the file with --engine embedded."
        )
    if cfg.aggregator.robust_rule != "fedavg":
        known = _ROBUST_RULES.get(cfg.aggregator.robust_rule)
        translated = f" ({cfg.aggregator.robust_rule} is {known})" if known else f": {', '.join(RULES)}"
        raise ConfigError(
            f"aggregator.robust_rule is {cfg.aggregator.robust_rule!r}, but FederatedScope's aggregators do not know "
            f"adapters. Set fedmllm.aggregation.rule{translated} and fedmllm.aggregation.byzantine in place of "
            "aggregator.byzantine_node_num."
        )
    for key, value, default in (
        ("federate.ignore_weight", cfg.federate.ignore_weight, False),
        ("grad.grad_clip", cfg.grad.grad_clip, -1.0),
    ):
        if value != default:
            raise ConfigError(f"{key} has no effect with trainer.type fedmllm; leave it at {default!r}.")
    raw = _collect(cfg, schema.Config)
    network = raw["fedmllm"]["network"]
    if cfg.federate.mode == "distributed" and network["address"] == schema.NetworkConfig().address:
        place = (cfg.distribute.server_host, cfg.distribute.server_port)
        if place != _HOST_DEFAULT_PLACE:
            network["address"] = f"{place[0]}:{place[1]}"
    optimizer, ours = raw["train"]["optimizer"], schema.OptimizerConfig()
    if optimizer["type"] == "SGD":  # FederatedScope's default, not the file's: take ours, as the embedded engine does
        optimizer["type"] = ours.type
    if optimizer["lr"] == _HOST_DEFAULT_LR:
        optimizer["lr"] = ours.lr
    raw["fedmllm"]["switches"] = {k: v for k, v in raw["fedmllm"]["switches"].items() if v != ""}
    raw["federate"]["method"] = raw["federate"]["method"].lower().removeprefix(PREFIX)
    if raw["federate"]["method"] not in ("local", "global") and not cfg.federate.make_global_eval:
        raise ConfigError("federate.make_global_eval must be True: our runs are evaluated on the server.")
    return schema.from_mapping(raw, cfg.cfg_file or "configuration")
