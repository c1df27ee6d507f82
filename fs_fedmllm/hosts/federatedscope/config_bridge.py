"""Our schema as FederatedScope's config nodes, and back.

FederatedScope merges a YAML file into nodes that exist beforehand; ours are made from the dataclasses' defaults,
so that presets stay short. A running job's node is turned back into :class:`fs_fedmllm.config.Config` and checked
by the same code as on the embedded engine.
"""

from __future__ import annotations

import dataclasses
import itertools
import sys
from pathlib import Path
from typing import Any

from fs_fedmllm import config as schema
from fs_fedmllm.config.asynchronous import host_fault
from fs_fedmllm.config.checks import sampling_fault
from fs_fedmllm.config.host_reading import METHOD_PREFIX, host_values, leaves, put
from fs_fedmllm.config.places import placed
from fs_fedmllm.config.profiles import SCENARIO_SWITCHES, SWITCHES
from fs_fedmllm.data.registry import NAMES
from fs_fedmllm.errors import ConfigError
from fs_fedmllm.hosts.federatedscope.given import given, was_given, watch_merges
from fs_fedmllm.keys import key_name

#: Name of our trainer and model.
OURS = "fedmllm"


def extend_config(cfg: Any) -> None:
    """Add ``fedmllm`` and ``model.fedmllm`` to FederatedScope's global config; registered as a config extension."""
    from federatedscope.core.configs.config import CN

    watch_merges()

    def node(instance: Any) -> Any:
        made = CN()
        for field in dataclasses.fields(instance):
            value, name = getattr(instance, field.name), key_name(field.name)
            if isinstance(value, dict):  # takes any key; FederatedScope lets no plain dictionary be merged
                made[name] = CN(new_allowed=True)
            else:
                made[name] = node(value) if dataclasses.is_dataclass(value) else value
        return made

    cfg.fedmllm = node(schema.FedMLLMConfig())
    # FederatedScope's command line cannot add keys, so every switch is there with an empty value: "by profile".
    cfg.fedmllm.switches = CN({name: "" for name in (*SWITCHES, *SCENARIO_SWITCHES)})
    cfg.model.fedmllm = node(schema.ModelOptions())
    # Ahead of FederatedScope's own check, which silently replaces a sample_client_num above client_num.
    cfg.__cfg_check_funcs__.insert(0, _check_sampling)


def _check_sampling(cfg: Any) -> None:
    if is_ours(cfg) and cfg.federate.client_num > 0 and (fault := sampling_fault(cfg.federate)):
        raise ConfigError(fault)


def is_ours(cfg: Any) -> bool:
    """Whether a job asks for our trainer, or names none with one of our scenarios on data of ours.

    Raises:
        ConfigError: it asks for another trainer on such data, which FederatedScope does not know.
    """
    if cfg.trainer.type == OURS:
        return True
    ours = cfg.data.splitter in schema.SPLITTERS and (cfg.data.type in NAMES or was_given(cfg, "fedmllm"))
    if ours and was_given(cfg, "trainer.type"):
        raise ConfigError(
            f"trainer.type is {cfg.trainer.type!r}, and data.type {cfg.data.type} with data.splitter "
            f"{cfg.data.splitter} is a job of ours, which FederatedScope's trainers cannot run. Set trainer.type: "
            f"{OURS}, or leave it out."
        )
    return ours


def _command_line(client_cfgs: Any) -> str:
    """The file of ``--client_cfg`` where FederatedScope's main was started with one.

    Raises:
        ConfigError: its command line took a word for a client's key and lost it.
    """
    file = ""
    for before, word in itertools.pairwise(sys.argv if Path(sys.argv[0]).name == "main.py" else ()):
        if before == "--client_cfg":
            file = word
        elif before != "--cfg" and word.startswith("client") and not (client_cfgs and word.startswith("client_")):
            raise ConfigError(
                f"FederatedScope's command line takes {word!r} for a client's own key, and without --client_cfg it "
                "loses it and the word after it. Write it into the configuration file."
            )
    return file


def to_config(cfg: Any, client_cfgs: Any = None) -> schema.Config:
    """The job's configuration in our schema, checked: what was given, and our defaults for the rest.

    Args:
        cfg: FederatedScope's tree.
        client_cfgs: what its ``--client_cfg`` holds: clients' own keys, by ``client_<id>``.

    Raises:
        ConfigError: as on the embedded engine, and for what FederatedScope cannot do.
    """
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
    raw, clients_file = given(cfg), _command_line(client_cfgs)
    if client_cfgs:
        if raw.get("fedmllm", {}).get("clients"):
            raise ConfigError("--client_cfg and fedmllm.clients both hold clients' own settings. Leave one out.")
        put(raw, "fedmllm.clients", schema.read_clients(dict(client_cfgs), clients_file or "--client_cfg"))
    if file := raw.get("cfg_file"):
        raw = placed(raw, file)
    config = schema.from_mapping(raw, raw.get("cfg_file") or "configuration", host=True)
    if config.fedmllm.privacy.dp.sampling != "fixed":
        raise ConfigError(
            "fedmllm.privacy.dp.sampling is poisson, but FederatedScope waits for a fixed number of clients in every "
            "round. Use fixed, or run the file with --engine embedded."
        )
    if config.fedmllm.replay:
        raise ConfigError(
            "fedmllm.replay may name other numbers of clients from round to round, but FederatedScope waits for a "
            "fixed one. Run the file with --engine embedded."
        )
    if fault := host_fault(config):
        raise ConfigError(fault)
    return config


def write_back(config: schema.Config, cfg: Any) -> None:
    """Let FederatedScope's tree say what the run does, so that what it prints and saves is true and runs again.

    Args:
        config: the job's configuration.
        cfg: the tree, not frozen; where it writes stays as FederatedScope has it.
    """
    from federatedscope.core.configs.config import CN

    for path, value in [*leaves(schema.to_mapping(config)), *host_values(config)]:
        *parents, name = path.split(".")
        node = cfg
        for parent in parents:
            if parent not in node:  # below a section that takes any key
                node[parent] = CN(new_allowed=True)
            node = node[parent]
        if path not in ("outdir", "expname"):
            node[name] = value
    # FederatedScope's monitor must know the metric that picks the best round, whether or not it is to report it.
    best = config.eval.best_res_update_round_wise_key.partition("_")[2]
    if best not in ("loss", "avg_loss", "total", *cfg.eval.metrics):
        cfg.eval.metrics = [*cfg.eval.metrics, best]
    cfg.federate.method = METHOD_PREFIX + config.federate.method
