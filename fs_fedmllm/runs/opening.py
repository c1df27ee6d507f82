"""The beginning of a run: what it deviates in is said, and its state is made anew or read where it stands."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fs_fedmllm.config import Config
from fs_fedmllm.config.profiles import profile_switches
from fs_fedmllm.hub.ahead import check_hub
from fs_fedmllm.hub.fetch import fetch_checkpoint, restore
from fs_fedmllm.rounds.federation import Federation
from fs_fedmllm.rounds.server import initial
from fs_fedmllm.runs.checkpoint import RunState, load_checkpoint
from fs_fedmllm.runs.listener import Listener
from fs_fedmllm.runs.resumption import announce, check_fit
from fs_fedmllm.runs.run_folder import RunFolder
from fs_fedmllm.scenarios.federated_data import FederatedData
from fs_fedmllm.scenarios.manifest import write_manifest

logger = logging.getLogger(__name__)


def look_ahead(config: Config, folder: Path, data: FederatedData) -> None:
    """What can be known before a model is loaded: where the run goes on, and whether the hub will take or give it.

    Raises:
        ConfigError: the folder holds another run's checkpoint, or a damaged one.
        HubError: see :func:`fs_fedmllm.hub.ahead.check_hub`.
    """
    announce(folder, config, data)
    check_hub(config, folder)


def say_deviations(config: Config) -> None:
    """A run that follows anything but the corrected rules says so in its log."""
    fixed, profile = profile_switches("fixed"), config.fedmllm.profile
    chosen = {name: value for name, value in config.switches.items() if value != fixed[name]}
    if profile != "fixed" or chosen:
        listed = ", ".join(f"{name}: {value}" for name, value in sorted(chosen.items()))
        logger.warning("Profile %s; not as in 'fixed': %s.", profile, listed or "scenario only")
    if not config.federate.share_local_model:
        logger.warning("federate.share_local_model False changes nothing: clients always share the base model.")
    model = config.model.fedmllm
    alone = not model.modules_to_save and set(model.federated) == {"lora"}
    if chosen.get("federated_parts") == "lora_and_modules" and alone:
        logger.warning(
            "The authors also train and send the token embeddings and the resampler; model.fedmllm.federated "
            "names neither, so only LoRA is sent. Set it to [lora, embeddings, resampler] where the model has "
            "them."
        )


def open_run(
    federation: Federation, folder: RunFolder, listener: Listener, digest: str, belongs: Mapping[str, Any]
) -> RunState:
    """Where the run stands; the folder is made ready for it.

    Args:
        federation: the run's pieces.
        folder: of the run; or of nothing yet, or of this run as it was interrupted.
        listener: told if the run goes on.
        digest: :func:`~fs_fedmllm.runs.resumption.identity` of the run.
        belongs: :func:`~fs_fedmllm.runs.belongings.belongings` of the run.

    Raises:
        ConfigError: the folder holds another run's checkpoint, or a damaged one.
        HubError: ``fedmllm.hub.resume_from`` cannot be fetched.
    """
    config, optimizer = federation.config, federation.optimizer
    say_deviations(config)
    if config.federate.save_to:  # a folder that cannot be made is better known now than after the last round
        Path(config.federate.save_to).parent.mkdir(parents=True, exist_ok=True)
    # Before anything is written: another run's folder must stay as it is.
    origin, place = config.fedmllm.hub.resume_from, folder.path / "checkpoint"
    if origin and not (place / "state.json").is_file():
        logger.info("Going on from %s, commit %s.", origin, fetch_checkpoint(origin, folder.path))
    saved = load_checkpoint(place, digest, belongs)
    params = federation.initial_state()
    server = initial(optimizer, params)
    if saved is not None:
        check_fit(place, saved, config, params, server)
    folder.write_config()
    if not federation.data.split:  # a server of a distributed run does not know its clients' rows
        write_manifest(federation.data.manifest, folder.path / "manifest.json")
    if saved is not None:
        if origin:  # a local checkpoint was announced before the model was loaded
            logger.warning(
                "Resuming after round %d of %d (%s).", saved.round, config.federate.total_round_num, folder.path
            )
        saved.lines = folder.keep_lines(saved.lines)
        listener.resumed(saved.figures["turns"])
        return saved
    folder.keep_lines(0)
    if config.federate.restore_from:
        slots = federation.mllm.model.peft_config["default"].to_dict()
        options, public = config.model.fedmllm, config.fedmllm.hub.base_model
        params = restore(config.federate.restore_from, params, slots, options, public)
        server = initial(optimizer, params)
    figures: dict[str, Any] = {"evaluations": [], "refused": [], "participants": [], "bytes_sent": 0, "turns": 0}
    return RunState(0, params, server, {}, figures)
