"""The draw that covers both modalities: by hand, where it is today's, and what it is refused with."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest

from fs_fedmllm.errors import ConfigError
from fs_fedmllm.rounds.modality_draw import modality_draw, shows, tells_apart
from fs_fedmllm.rounds.schedule import round_clients

CROSS = {client: {"image" if client <= 3 else "text": 10} for client in range(1, 11)}
COMPLETE = {client: {"both": 10, "image": client % 2} for client in range(1, 11)}


def draws(presence, size, rounds=400):
    return [modality_draw(presence, size, r, np.random.default_rng([7, r])) for r in range(rounds)]


def test_each_round_has_a_client_of_each_modality() -> None:
    found = draws(CROSS, 2)
    assert all(len(clients) == 2 and clients[0] <= 3 < clients[1] for clients in found)
    counted = Counter(client for clients in found for client in clients)
    assert set(counted) == set(CROSS)
    assert all(abs(counted[c] - 400 / 3) < 40 for c in (1, 2, 3))  # evenly within a modality
    assert all(abs(counted[c] - 400 / 7) < 30 for c in range(4, 11))


@pytest.mark.parametrize("size", [1, 3])
def test_an_odd_number_favours_neither_modality(size: int) -> None:
    images = sum(client <= 3 for clients in draws(CROSS, size) for client in clients)
    assert images == 400 * size / 2


def test_an_empty_pool_is_filled_with_anybody() -> None:
    assert all(len(set(clients)) == 3 for clients in draws({1: {"image": 1}, 2: {"image": 1}, 3: {"image": 1}}, 3))
    assert modality_draw(CROSS, 10, 0, np.random.default_rng(0)) == list(range(1, 11))
    assert all({1, 2, 3} < set(clients) for clients in draws(CROSS, 8, 20))  # four slots for three image clients


def test_complete_clients_stand_in_both_pools() -> None:
    presence = {1: {"both": 5}, 2: {"image": 5}, 3: {"text": 5}}
    found = Counter(tuple(clients) for clients in draws(presence, 2))
    assert set(found) == {(1, 2), (1, 3), (2, 3)}


def test_a_bare_question_is_text() -> None:
    assert shows({"neither": 3}, "text") and not shows({"neither": 3}, "image")
    assert shows({"both": 1}, "text") and shows({"both": 1}, "image")
    assert not shows({"image": 0, "text": 2}, "image")


def test_where_every_client_shows_both_it_is_the_ordinary_draw(short_config) -> None:
    plain, covering = short_config(), short_config("cross_i3t7", "fedmllm.sampler", "modality")
    assert not tells_apart(COMPLETE) and tells_apart(CROSS)
    for index in range(20):
        ordinary = round_clients(plain, index)
        assert round_clients(covering, index, presence=COMPLETE) == ordinary
        assert round_clients(plain, index, presence=CROSS) == ordinary
        drawn = round_clients(covering, index, presence=CROSS)
        assert drawn == round_clients(covering, index, presence=CROSS) and drawn[0] <= 3 < drawn[1]
    assert round_clients(covering, 0, [[1, 2]], CROSS) == [1, 2]  # a replay's clients are those that it records


def test_a_run_draws_by_its_manifest(short_config) -> None:
    from fs_fedmllm.runs.simulation import run

    results, folder = run(short_config("cross_i3t7", "fedmllm.sampler", "modality"))
    clients = json.loads((folder.path / "manifest.json").read_text())["clients"]
    for drawn in results["participants"]:
        assert sorted(clients[str(client)]["shows"][0] for client in drawn) == ["i", "t"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("federate.method", "local"), "draws no clients"),
        (("federate.method", "global"), "draws no clients"),
        (("fedmllm.privacy.dp.clip_norm", 0.1, "fedmllm.privacy.dp.noise_multiplier", 1.0), "needs a uniform draw"),
        (("fedmllm.switches.client_sampling", "round_seed"), "is another draw"),
    ],
)
def test_refusals(short_config, words, says) -> None:
    with pytest.raises(ConfigError, match=rf"fedmllm\.sampler is modality, .*{says}"):
        short_config("cross_i3t7", "fedmllm.sampler", "modality", *words)


@pytest.mark.parametrize("method", ["fedavg", "fedavgm", "fedadagrad", "fedadam", "fedyogi", "scaffold", "feddyn"])
@pytest.mark.parametrize("regularizer", ["none", "adaptive", "fedprox", "moon", "fedilora"])
def test_the_switches_go_with_every_method_and_regulariser(short_config, method: str, regularizer: str) -> None:
    words = ("fedmllm.label_prior", 1, "fedmllm.sampler", "modality", "fedmllm.stand_ins.use", "auto",
             "fedmllm.average_last", 2, "federate.method", method, "fedmllm.regularizer.type",
             regularizer)  # fmt: skip
    if regularizer == "fedilora" and method in ("scaffold", "feddyn"):
        with pytest.raises(ConfigError, match="sums what the training moved"):
            short_config("cross_i3t7", *words)
    else:
        assert short_config("cross_i3t7", *words).federate.method == method
