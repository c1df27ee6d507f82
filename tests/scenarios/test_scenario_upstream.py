"""The authors' draws, bit for bit: anchors that their released evaluation scripts hard-code."""

import math
import random

import numpy as np
import pytest
from scenario_rows import HATEFUL, hateful, ids, medical, paired, presence

from fs_fedmllm.errors import ScenarioError
from fs_fedmllm.scenarios import apply_scenario, profile_params
from fs_fedmllm.scenarios.cross import image_clients
from fs_fedmllm.scenarios.draws import RECORDED_PRESENCE_SEED
from fs_fedmllm.scenarios.hybrid import presence as client_presence
from fs_fedmllm.scenarios.partition import repair

UPSTREAM = profile_params("upstream")


def upstream(name, rows, clients=10, **changes):
    return apply_scenario(name, rows, clients, profile_params("upstream", **changes), seed=999)


@pytest.mark.parametrize(
    ("alpha", "sizes"),
    [
        (5.0, [821, 839, 1036, 737, 1215, 1040, 640, 919, 879, 374]),
        (0.5, [523, 1433, 173, 30, 1014, 3, 4285, 123, 507, 409]),
    ],
)
def test_hateful_client_sizes(alpha, sizes):
    split = upstream("aligned", hateful(), alpha=alpha)
    assert [len(rows) for rows in split.clients.values()] == sizes
    assert list(split.clients) == list(range(1, 11))
    assert split.manifest.seed == 42


def test_hateful_label_splits():
    records = upstream("aligned", hateful(), alpha=0.5).manifest.clients.values()
    assert [r.labels["0"] for r in records] == [293, 1383, 51, 7, 788, 1, 2299, 69, 194, 396]
    assert [r.labels["1"] for r in records] == [230, 50, 122, 23, 226, 2, 1986, 54, 313, 13]


@pytest.mark.parametrize("first_only", [False, True])
@pytest.mark.parametrize("alpha", [5.0, 1.0, 0.5])
def test_rows_equal_plain_loops_on_the_global_generators(alpha, first_only):
    """Section 2.1 of the reading notes written out with lists, with np.random.seed and random.seed themselves."""
    labels = HATEFUL if not first_only else [0, 2, 1, *([0] * 300), *([1] * 60), *([2] * 8)]
    rows = paired(labels)
    groups = {}
    for index, label in enumerate(labels):
        groups.setdefault(label, []).append(index)
    np.random.seed(42)
    random.seed(42)
    share = np.random.dirichlet([alpha] * 10, size=len(groups))
    expected = [[] for _ in range(10)]
    for number, members in enumerate(groups.values()):
        counts = [math.floor(part * len(members)) for part in share[number]]
        while (number == 0 or not first_only) and min(counts) < 1:
            for client in range(10):
                if counts[client] < 1:
                    counts[next(i for i, count in enumerate(counts) if count > 1)] -= 1
                    counts[client] += 1
        counts[9] = len(members) - sum(counts[:9])
        start = 0
        for client, count in enumerate(counts):
            expected[client] += members[start : start + count]
            start += count
    for part in expected:
        random.shuffle(part)
    split = upstream("aligned", rows, alpha=alpha, **({"minimum": "first_label"} if first_only else {}))
    assert list(ids(split.clients).values()) == [[f"r{index}" for index in part] for part in expected]


def test_repair_takes_from_the_lowest_client_that_can_give():
    assert repair(np.array([2, 0, 0, 5])).tolist() == [1, 1, 1, 4]
    assert repair(np.array([1, 9, 0, 3])).tolist() == [1, 8, 1, 3]


def test_crisismmd_repairs_its_first_label_only():
    assert profile_params("upstream", dataset="crisismmd").minimum == "first_label"
    assert profile_params("upstream", dataset="hateful_memes").minimum == "label"
    assert profile_params("fixed", dataset="crisismmd").minimum == "client"


def test_a_label_too_small_for_the_repair_says_what_to_change():
    with pytest.raises(ScenarioError, match="set minimum: client"):
        upstream("aligned", paired([0] * 500 + [1] * 5))


@pytest.mark.parametrize(
    ("seed", "k", "chosen"),
    [
        (42, 3, [1, 0, 4]),
        (42, 5, [1, 0, 4, 9, 6]),
        (41, 3, [6, 5, 3]),
        (41, 5, [6, 5, 3, 1, 7]),
        (41, 7, [6, 5, 3, 1, 7, 4, 2]),
    ],
)
def test_image_clients(seed, k, chosen):
    assert image_clients(10, k, UPSTREAM, seed) == chosen


@pytest.mark.parametrize(("k", "image_rows"), [(3, 2970), (5, 7664), (7, 8174)])
def test_cross_share_of_image_rows(k, image_rows):
    split = upstream("cross", hateful(), image_clients=k, text_clients=10 - k)
    counts = [presence(rows) for rows in split.clients.values()]
    assert sum(c["image"] for c in counts) == image_rows
    assert sum(c["text"] for c in counts) == 8500 - image_rows


@pytest.mark.parametrize(
    ("p", "matrix"),
    [
        (0.8, "10 11 11 10 11 10 01 11 11 11"),
        (0.6, "10 01 11 10 00 10 01 11 11 11"),
    ],
)
def test_presence_matrix(p, matrix):
    held = client_presence(10, profile_params("upstream", p=p), 42)
    assert " ".join(f"{show & 1}{show >> 1}" for show in held) == matrix


def test_hybrid_tosses_a_coin_per_row_for_the_one_client_that_holds_nothing():
    split = upstream("hybrid", hateful(), p=0.6)
    counts = presence(split.clients[5])
    assert counts["image"] + counts["text"] == 1014
    assert abs(counts["image"] - 507) < 4 * math.sqrt(1014) / 2
    assert split.clients[5] != upstream("hybrid", hateful(), p=0.6, seed=43).clients[5]


@pytest.mark.parametrize("beta", [0.3, 0.4, 0.5])
def test_missing_follows_one_stream_text_first_and_keeps_empty_rows(beta):
    aligned = upstream("aligned", hateful())
    split = upstream("missing", hateful(), beta=beta)
    random.seed(42)
    for client, rows in aligned.clients.items():
        for before, after in zip(rows, split.clients[client], strict=True):
            text = random.random() < 1 - beta
            image = random.random() < 1 - beta
            assert after == before.showing(image=image, text=text)
    total = presence([row for rows in split.clients.values() for row in rows])
    for name, share in (("both", (1 - beta) ** 2), ("neither", beta**2), ("image", beta * (1 - beta))):
        assert abs(total[name] - 8500 * share) < 4 * math.sqrt(8500 * share * (1 - share))


def test_missing_follows_the_recorded_file_order():
    ascending = upstream("missing", hateful(), beta=0.3)
    listed = upstream("missing", hateful(), beta=0.3, file_order=(3, 1, 2, 4, 5, 6, 7, 8, 9, 10))
    assert listed.clients[4] == ascending.clients[4]
    assert listed.clients[3] != ascending.clients[3]
    assert listed.manifest.params["file_order"] == [3, 1, 2, 4, 5, 6, 7, 8, 9, 10]


@pytest.mark.parametrize("k", [3, 5, 7])
def test_medical_cross_equals_plain_loops_on_the_global_generator(k):
    rows = medical()
    split = upstream("cross", rows, image_clients=k, text_clients=10 - k)
    random.seed(41)
    image = random.sample(range(10), k)
    text = [client for client in range(10) if client not in image]
    expected = {}
    for holders, name, count in ((image, "rad", 1797), (text, "card", 33951)):
        block = [f"{name}{index}" for index in range(count)]
        random.shuffle(block)
        size = count // len(holders)
        for place, holder in enumerate(holders):
            end = None if place == len(holders) - 1 else size * (place + 1)
            expected[holder + 1] = block[size * place : end]
    assert ids(split.clients) == expected
    assert split.manifest.seed == 41
    held = [len(part) for part in split.clients.values()]
    assert {3: 599, 5: 359, 7: 256}[k] == held[image[0]]
    assert {3: 4850, 5: 6790, 7: 11317}[k] == held[text[0]]


@pytest.mark.parametrize(
    ("p", "matrix"),
    [
        (0.8, "11 11 11 11 01 11 11 11 11 11"),
        (0.7, "11 11 11 11 01 11 11 11 01 01"),
        (0.6, "11 01 10 10 01 11 11 11 01 01"),
    ],
)
def test_recorded_medical_presence(p, matrix):
    """Ours: the authors' medical script leaves this draw unseeded."""
    held = client_presence(10, profile_params("upstream", p=p), RECORDED_PRESENCE_SEED)
    assert " ".join(f"{show & 1}{show >> 1}" for show in held) == matrix


@pytest.mark.parametrize("p", [0.8, 0.7, 0.6])
def test_medical_hybrid_follows_the_recorded_draw(p):
    rows = medical(90, 400)
    split = upstream("hybrid", rows, p=p)
    again = upstream("hybrid", rows, p=p)
    assert ids(split.clients) == ids(again.clients)
    assert sorted(row.id for part in split.clients.values() for row in part) == sorted(row.id for row in rows)
    both = [part for part in split.clients.values() if presence(part)["image"] and presence(part)["text"]]
    assert both
    assert any([row.presence for row in part] != sorted(row.presence for row in part) for part in both)
