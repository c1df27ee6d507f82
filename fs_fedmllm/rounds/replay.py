"""Who took part in each round of an earlier run, for a run that repeats it.

A client that is away when it is drawn is left out of its round, which a draw cannot know; so the participants are
recorded in results.json. With them, any engine gives the adapter of the run that recorded them.
"""

from __future__ import annotations

from pathlib import Path

from fs_fedmllm.config import Config
from fs_fedmllm.errors import ConfigError
from fs_fedmllm.files.untrusted import read_json


def recorded_participants(config: Config) -> list[list[int]]:
    """The participants of each round in the results.json that ``fedmllm.replay`` names; empty where it names none.

    Raises:
        ConfigError: the file cannot be read, or does not fit the configuration.
    """
    if not config.fedmllm.replay:
        return []
    path = Path(config.fedmllm.replay)
    try:
        rounds = read_json(path)["participants"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"fedmllm.replay: {path} is not a results.json with participants ({type(error).__name__}: {error})."
        ) from error
    known = range(1, config.federate.client_num + 1)
    if not isinstance(rounds, list) or any(
        not isinstance(clients, list) or not clients or clients != sorted(set(clients)) or set(clients) - set(known)
        for clients in rounds
    ):
        raise ConfigError(f"fedmllm.replay: the participants in {path} are not clients from 1 to {known[-1]}.")
    if len(rounds) < config.federate.total_round_num:
        raise ConfigError(
            f"fedmllm.replay: {path} has {len(rounds)} rounds, but federate.total_round_num is "
            f"{config.federate.total_round_num}. Lower the latter."
        )
    return rounds
