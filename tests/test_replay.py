"""Participants are recorded, and a run with recorded ones repeats the run that recorded them."""

from __future__ import annotations

import json

import pytest

from fs_fedmllm.errors import ConfigError
from fs_fedmllm.rounds.replay import recorded_participants
from fs_fedmllm.runs.simulation import run


def test_a_replay_takes_the_recorded_clients_and_gives_the_same_adapter(short_config, tmp_path) -> None:
    drawn, folder = run(short_config())
    assert [len(clients) for clients in drawn["participants"]] == [2, 2]
    fewer = tmp_path / "results.json"
    fewer.write_text(json.dumps({"participants": [drawn["participants"][0], drawn["participants"][1][1:]]}))
    same, _ = run(short_config("cross_i3t7", "fedmllm.replay", folder.path / "results.json"))
    other, _ = run(short_config("cross_i3t7", "fedmllm.replay", fewer))
    assert same["participants"] == drawn["participants"]
    assert same["adapter_sha256"] == drawn["adapter_sha256"] != other["adapter_sha256"]
    assert other["participants"][1] == drawn["participants"][1][1:]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "not a results.json"),
        ('{"rounds": 2}', "not a results.json"),
        ('{"participants": [[1, 2], [3, 11]]}', "clients from 1 to 10"),
        ('{"participants": [[1, 2], []]}', "clients from 1 to 10"),
        ('{"participants": [[2, 1], [1]]}', "clients from 1 to 10"),
        ('{"participants": [[1, 2]]}', "has 1 rounds"),
    ],
)
def test_a_record_that_does_not_fit_is_refused(short_config, tmp_path, content, says) -> None:
    file = tmp_path / "results.json"
    file.write_text(content)
    with pytest.raises(ConfigError, match=says):
        recorded_participants(short_config("cross_i3t7", "fedmllm.replay", file))
