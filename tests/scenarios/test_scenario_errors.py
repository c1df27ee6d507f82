"""Every refusal says what is wrong and what to change."""

import pytest
from scenario_rows import medical, paired

from fs_fedmllm.data.sample import Sample
from fs_fedmllm.errors import ScenarioError
from fs_fedmllm.scenarios import ScenarioParams, apply_scenario, profile_params
from fs_fedmllm.scenarios.switches import SWITCHES

ROWS = paired([0, 1] * 30, per_tweet=20)
IMAGES = [Sample(f"i{n}", "/i.png", None, "a", label=0) for n in range(20)]


def refused(match, name, rows=ROWS, clients=10, **params):
    with pytest.raises(ScenarioError, match=match) as caught:
        apply_scenario(name, rows, clients, ScenarioParams(**params), seed=1)
    assert "\n" not in str(caught.value)


def test_cross_counts():
    refused(
        r"3 image \+ 7 text clients of 12: .* change image_clients",
        "cross",
        clients=12,
        image_clients=3,
        text_clients=7,
    )
    refused(r"needs image_clients and text_clients, 10 in sum", "cross")
    refused(r"12 image \+ -2 text clients of 10", "cross", image_clients=12)


@pytest.mark.parametrize("alpha", [0, -1.0, float("nan"), float("inf"), "0.5", True])
def test_alpha(alpha):
    refused("alpha: .* must be a number greater than 0", "aligned", alpha=alpha)


@pytest.mark.parametrize("rate", ["beta", "p"])
@pytest.mark.parametrize("value", [-0.1, 1.1, 30, "0.3", None])
def test_rates(rate, value):
    refused(f"{rate}: .* must be a share between 0 and 1", "missing", **{rate: value})


@pytest.mark.parametrize("switch", SWITCHES)
def test_unknown_switch_values_list_the_allowed(switch):
    refused(f"{switch}: 'best' is unknown; use one of {', '.join(SWITCHES[switch])}", "aligned", **{switch: "best"})


def test_unknown_names_list_the_allowed():
    refused("scenario 'align' is unknown; use one of aligned, missing, cross, hybrid", "align")
    with pytest.raises(ScenarioError, match="'best' is unknown; use one of fixed, paper, upstream"):
        profile_params("best")
    with pytest.raises(ScenarioError, match="settings aplha are unknown; use some of alpha, by"):
        profile_params("fixed", aplha=1)


@pytest.mark.parametrize("count", [-1, 2.0, True])
def test_counts(count):
    refused("image_clients: .* whole number", "cross", image_clients=count)
    refused("client_num: .* whole number", "aligned", clients=-1 if count == -1 else count)


def test_seeds():
    with pytest.raises(ScenarioError, match="seed: -1 must be a whole number"):
        apply_scenario("aligned", ROWS, 2, seed=-1)
    refused("seed: -3 must be a whole number", "aligned", seed=-3)


def test_too_many_clients():
    refused("60 rows cannot give each of 61 clients one; use at most 60", "aligned", clients=61)
    refused("3 groups of 'tweet_id' cannot give each of 10 clients one", "aligned", keep_together="tweet_id")
    refused("10 image rows cannot give each of 11 clients one", "cross", medical(10, 50), 12, image_clients=11)


def test_nothing_to_distribute():
    refused("no training rows", "aligned", rows=[])


def test_group_keys():
    refused("by: 'disease' is absent from row r0 .* label, kind, modality, tweet_id", "aligned", by="disease")
    refused("keep_together: 'user' is absent", "aligned", keep_together="user")
    refused("by: 'label' is absent from row rad0", "aligned", rows=medical(20, 20))
    refused("cannot be combined with minimum: 'label'", "aligned", keep_together="tweet_id", minimum="label")


def test_duplicate_ids_are_named():
    refused(r"row id 'r0' occurs twice \(train.jsonl:1 and train.jsonl:1\)", "aligned", rows=[*ROWS, ROWS[0]])


def test_unpaired_sets():
    refused("takes modalities from rows that have both, and no row does", "missing", rows=medical(20, 20))
    refused("use at least one client of each", "cross", rows=medical(20, 20), image_clients=10)
    refused("hybrid drew 0 image|hybrid drew . image and 0 text", "hybrid", rows=medical(20, 20), clients=1, p=0.0)
    refused("5 clients hold text rows, but the data has none", "cross", rows=IMAGES, image_clients=5)


def test_a_cross_client_that_would_keep_nothing():
    rows = IMAGES + paired([1])
    refused(
        r"client \d would keep none of its \d+ rows, because they lack the modality", "cross", rows, 4, text_clients=4
    )


def test_file_order():
    refused(r"file_order: \[1, 2\] must name each client", "missing", missing_draw="single_stream", file_order=(1, 2))


def test_alpha_too_small_to_draw():
    with pytest.raises(ScenarioError, match=r"alpha 1e-300 is too small to draw shares from; use 0\.01 or more"):
        apply_scenario("aligned", ROWS, 10, profile_params("upstream", alpha=1e-300))
