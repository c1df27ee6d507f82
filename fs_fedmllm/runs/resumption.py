"""Going on from a checkpoint: said at once, and only with a state that fits the run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from fs_fedmllm.algorithms import State
from fs_fedmllm.config import Config, config_digest
from fs_fedmllm.data.sample import MODALITIES
from fs_fedmllm.errors import ConfigError
from fs_fedmllm.keys import is_number
from fs_fedmllm.runs.belongings import belongings
from fs_fedmllm.runs.buffered import check_buffered, whole
from fs_fedmllm.runs.checkpoint import RunState, read_head
from fs_fedmllm.scenarios.federated_data import FederatedData

logger = logging.getLogger(__name__)


def identity(config: Config, data: FederatedData) -> str:
    """A checkpoint belongs to a configuration and to the rows that it was dealt."""
    return f"{config_digest(config)}-{data.manifest_sha256}"


def resumes_at(folder: Path, config: Config, data: FederatedData) -> int | None:
    """Rounds done by the checkpoint that a run would go on from; None if there is nothing to resume.

    Raises:
        ConfigError: the folder's checkpoint is another run's, or damaged.
    """
    state = folder / "checkpoint"
    head = read_head(state, identity(config, data), belongings(config, data)) if state.is_dir() else None
    return None if head is None else int(head["round"])


def announce(folder: Path, config: Config, data: FederatedData) -> bool:
    """Say where an interrupted run goes on, before anything expensive is loaded; False if there is nothing to resume.

    Arguments and errors as for :func:`resumes_at`.
    """
    done = resumes_at(folder, config, data)
    if done is None:
        return False
    logger.warning("Resuming after round %d of %d (%s).", done, config.federate.total_round_num, folder)
    return True


def check_fit(folder: Path, saved: RunState, config: Config, params: State, server: State) -> None:
    """A state whose digests are right may still be no state of this run, if somebody made it.

    Raises:
        ConfigError: names what does not fit.
    """
    try:
        _like("the adapter", saved.params, params)
        _like("the server's state", saved.server, server)
        if saved.best:
            _like("the best adapter", saved.best, params)
        for index, kept in enumerate(saved.recent):
            _like(f"the adapter {index} of the last rounds", kept, params)
        if len(saved.recent) != min(config.fedmllm.average_last, saved.round):
            raise ValueError(f"it holds the adapters of {len(saved.recent)} rounds")
        if saved.round > config.federate.total_round_num:
            raise ValueError(f"round is {saved.round}, of {config.federate.total_round_num}")
        strange = sorted(set(saved.clients) - set(range(1, config.federate.client_num + 1)))
        if strange:
            raise ValueError(f"there is no client {strange[0]}")
        for name, (fits, kind) in _FIGURES.items():
            if not fits(saved.figures.get(name)) and (name in saved.figures or name not in _OPTIONAL):
                raise ValueError(f"{name} is no {kind}")
        if set(saved.figures.get("test_sets") or {}) != set(map(str, config.fedmllm.test_sets)):
            raise ValueError("test_sets has figures of other test sets")
        if len(saved.figures["participants"]) != saved.round:
            raise ValueError(f"participants has {len(saved.figures['participants'])} rounds, round is {saved.round}")
        check_buffered(saved, config, params)
    except ValueError as error:
        raise ConfigError(
            f"The checkpoint in {folder} does not fit this run ({error}); remove that folder."
        ) from error


def _like(what: str, found: State, like: State) -> None:
    if set(found) != set(like):
        odd = sorted(set(found) ^ set(like))[0]
        raise ValueError(f"{what} has {'no' if odd in like else 'a'} tensor {odd!r}")
    for name, tensor in found.items():
        if (tensor.shape, tensor.dtype) != (like[name].shape, like[name].dtype):
            raise ValueError(f"{name!r} of {what} is {tuple(tensor.shape)} {tensor.dtype}")
        if tensor.dtype.is_floating_point and not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"{name!r} of {what} is not finite")


def _evaluations(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(e, dict) and whole(e.get("round")) and all(map(is_number, e.values())) for e in value
    )


def _test_sets(value: Any) -> bool:
    return value is None or (isinstance(value, dict) and all(map(_evaluations, value.values())))


def _refused(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(e, dict) and whole(e.get("round")) and whole(e.get("client")) and isinstance(e.get("reason"), str)
        for e in value
    )


def _participants(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(clients, list) and all(map(whole, clients)) for clients in value)


def _seconds(value: Any) -> bool:
    return isinstance(value, Mapping) and all(is_number(value.get(n)) for n in ("total", "training", "evaluation"))


def _presence(value: Any) -> bool:
    return isinstance(value, Mapping) and all(
        str(client).isdigit() and isinstance(own, Mapping) and all(map(whole, own.values()))
        for client, own in value.items()
    )


def _decisions(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(e, dict) and whole(e.get("round")) and all(type(e.get(kind)) is bool for kind in MODALITIES)
        for e in value
    )


#: Of what only some runs have.
_OPTIONAL = ("presence", "stand_ins")
_FIGURES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "evaluations": (_evaluations, "list of figures by round"),
    "test_sets": (_test_sets, "mapping of test sets to lists of figures by round"),
    "refused": (_refused, "list of refusals"),
    "participants": (_participants, "list of clients by round"),
    "seconds": (_seconds, "mapping of times"),
    "bytes_sent": (is_number, "number"),
    "turns": (whole, "count"),
    "stand_ins": (_decisions, "list of decisions on stand-ins by round"),
    "presence": (_presence, "mapping of what clients told of their rows"),
}
