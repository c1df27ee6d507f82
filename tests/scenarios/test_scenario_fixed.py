"""Profile ``fixed``: what must hold for every split, level and seed."""

import math
import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from scenario_rows import hateful, ids, medical, paired, presence

from fs_fedmllm.data.sample import Sample
from fs_fedmllm.errors import ScenarioError
from fs_fedmllm.scenarios import ScenarioParams, apply_scenario, profile_params
from fs_fedmllm.scenarios.hybrid import presence as client_presence
from fs_fedmllm.scenarios.rows import Rows
from fs_fedmllm.scenarios.units import deal, majority, together

LABELS = np.random.default_rng(7).choice(8, size=2000, p=[0.4, 0.2, 0.15, 0.1, 0.08, 0.04, 0.02, 0.01]).tolist()
PRESETS = runpy.run_path(str(Path(__file__).resolve().parents[2] / "scripts" / "write_presets.py"))
LEVEL_CASES = [(level.splitter, yaml.safe_load(f"{{{level.args}}}")) for level in PRESETS["LEVELS"]]
SCENARIOS = list(dict.fromkeys(name for name, _ in LEVEL_CASES))


@pytest.mark.parametrize("profile", ["fixed", "paper"])
@pytest.mark.parametrize(("name", "level"), LEVEL_CASES)
def test_every_level_deals_every_row_once(name, level, profile):
    rows = paired(LABELS)
    split = apply_scenario(name, rows, 10, profile_params(profile, **level), seed=3)
    assert sorted(row.id for part in split.clients.values() for row in part) == sorted(row.id for row in rows)
    assert all(split.clients[client] for client in range(1, 11))
    for client, part in split.clients.items():
        record = split.manifest.clients[client]
        assert record.presence == presence(part)
        assert record.beta == max(
            sum(row.image is None for row in part) / len(part), sum(row.text is None for row in part) / len(part)
        )
        assert sum(record.labels.values()) == len(part)
        if profile == "fixed":
            assert record.presence["neither"] == 0


@pytest.mark.parametrize(("name", "level"), LEVEL_CASES)
def test_same_seed_same_split_and_another_seed_another(name, level):
    rows, params = paired(LABELS[:600]), ScenarioParams(**level)
    first, again, other = (apply_scenario(name, rows, 10, params, seed=seed) for seed in (5, 5, 6))
    assert first.clients == again.clients
    assert first.manifest.sha256 == again.manifest.sha256
    assert ids(first.clients) != ids(other.clients)
    assert first.manifest.sha256 != other.manifest.sha256


def test_params_seed_goes_before_the_runs():
    rows = paired(LABELS[:300])
    pinned = apply_scenario("aligned", rows, 5, ScenarioParams(seed=9), seed=1)
    assert ids(pinned.clients) == ids(apply_scenario("aligned", rows, 5, ScenarioParams(), seed=9).clients)
    assert pinned.manifest.seed == 9


@pytest.mark.parametrize("beta", [0.0, 0.3, 0.4, 0.5, 1.0])
def test_missing_rates(beta):
    split = apply_scenario("missing", hateful(), 10, ScenarioParams(beta=beta), seed=1)
    total = presence([row for part in split.clients.values() for row in part])
    rate = beta - beta**2 / 2
    for name, share in (("both", (1 - beta) ** 2), ("image", rate), ("text", rate)):
        assert abs(total[name] - 8500 * share) <= 4 * math.sqrt(8500 * share * (1 - share))
    assert total["neither"] == 0


def test_missing_keeps_the_only_modality_of_a_row():
    rows = [Sample(f"i{n}", "/i.png", None, "a", label=0) for n in range(50)] + paired([0] * 50)
    part = apply_scenario("missing", rows, 1, ScenarioParams(beta=1.0), seed=0).clients[1]
    assert all(row.presence == "image" for row in part if row.id.startswith("i"))
    assert presence(part)["neither"] == 0


def test_draws_of_a_client_do_not_depend_on_other_clients():
    params = ScenarioParams(p=0.6)
    assert client_presence(10, params, 4)[:6].tolist() == client_presence(6, params, 4).tolist()
    rows = paired(LABELS[:400])
    one = apply_scenario("missing", rows, 1, ScenarioParams(beta=0.5), seed=2).clients[1]
    few = apply_scenario("missing", rows[:100], 1, ScenarioParams(beta=0.5), seed=2).clients[1]
    assert len(one) == 400
    assert len(few) == 100
    reversed_order = ScenarioParams(beta=0.5, file_order=(3, 2, 1))
    first = apply_scenario("missing", rows, 3, ScenarioParams(beta=0.5), seed=2)
    assert apply_scenario("missing", rows, 3, reversed_order, seed=2).clients == first.clients


def test_levels_share_the_partition():
    """A row stays at its client when only modalities are drawn away."""
    rows = paired(LABELS)
    splits = [apply_scenario("aligned", rows, 10, seed=1)]
    for name, level in LEVEL_CASES:
        if name != "aligned":
            splits.append(apply_scenario(name, rows, 10, ScenarioParams(**level), seed=1))
    assert all(ids(split.clients) == ids(splits[0].clients) for split in splits)


def test_rows_that_lose_nothing_are_not_copied():
    rows = paired(LABELS[:100])
    known = {id(row) for row in rows}
    assert all(
        id(row) in known for part in apply_scenario("aligned", rows, 4, seed=0).clients.values() for row in part
    )


@pytest.mark.parametrize("alpha", [5.0, 1.0, 0.5, 0.05])
@pytest.mark.parametrize("clients", [1, 2, 20, 30])
def test_every_client_has_a_row(alpha, clients):
    split = apply_scenario("aligned", paired(LABELS[:60]), clients, ScenarioParams(alpha=alpha), seed=11)
    sizes = [len(part) for part in split.clients.values()]
    assert min(sizes) >= 1
    assert sum(sizes) == 60


def test_as_many_clients_as_rows():
    split = apply_scenario("aligned", paired(LABELS[:30]), 30, ScenarioParams(alpha=0.1), seed=0)
    assert [len(part) for part in split.clients.values()] == [1] * 30


@pytest.mark.parametrize("alpha", [5.0, 1.0, 0.5])
@pytest.mark.parametrize("per_tweet", [1, 2, 3])
def test_tweets_stay_whole(alpha, per_tweet):
    rows = paired(LABELS, per_tweet)
    split = apply_scenario("aligned", rows, 10, ScenarioParams(alpha=alpha, keep_together="tweet_id"), seed=1)
    homes = [{row.keys["tweet_id"] for row in part} for part in split.clients.values()]
    assert sum(map(len, homes)) == len(set().union(*homes))
    assert sum(map(len, split.clients.values())) == 2000


def test_kept_together_singly_is_the_plain_partition():
    rows, params = paired(LABELS), ScenarioParams()
    whole = apply_scenario("aligned", rows, 10, ScenarioParams(keep_together="tweet_id"), seed=1)
    assert ids(whole.clients) == ids(apply_scenario("aligned", rows, 10, params, seed=1).clients)


def test_smaller_alpha_is_more_skewed():
    def spread(alpha):
        sizes = [
            [
                len(p)
                for p in apply_scenario("aligned", paired(LABELS), 10, ScenarioParams(alpha=alpha), s).clients.values()
            ]
            for s in range(5)
        ]
        return np.std(sizes, axis=1).mean()

    assert spread(0.1) > spread(0.5) > spread(5.0) > spread(500.0)


@pytest.mark.parametrize("by", ["label", "kind", "modality", "tweet_id"])
def test_proportions_by_any_key(by):
    split = apply_scenario("aligned", paired(LABELS[:200], 10), 4, ScenarioParams(by=by, alpha=1.0), seed=0)
    assert sum(map(len, split.clients.values())) == 200


def test_units_by_hand():
    units = together(np.arange(6), ["a", "b", "a", "c", "b", "a"])
    assert units.sizes.tolist() == [3, 2, 1]
    assert units.expand(np.array([1, 0])).tolist() == [1, 4, 0, 2, 5]
    assert majority(units, np.array([0, 1, 2, 3, 1, 2])).tolist() == [2, 1, 3]
    assert majority(units, np.array([2, 1, 0, 0, 0, 1])).tolist() == [0, 0, 0]
    assert deal(np.array([1, 1, 1, 1]), np.array([0, 3, 0, 1])).tolist() == [1, 1, 1, 3]
    assert deal(np.array([3, 2, 1]), np.array([2, 4])).tolist() == [0, 1, 1]


@pytest.mark.parametrize("k", [0, 3, 5, 7, 10])
def test_cross_clients(k):
    params = ScenarioParams(image_clients=k, text_clients=10 - k)
    split = apply_scenario("cross", paired(LABELS), 10, params, seed=2)
    seen = [{row.presence for row in part} for part in split.clients.values()]
    assert sum(show == {"image"} for show in seen) == k
    assert sum(show == {"text"} for show in seen) == 10 - k
    assert set(split.manifest.betas.values()) == {1.0}


def test_cross_counts_may_be_given_by_one_side():
    for params in (ScenarioParams(image_clients=3), ScenarioParams(text_clients=7)):
        split = apply_scenario("cross", paired(LABELS), 10, params, seed=2)
        assert sum(record.presence["image"] > 0 for record in split.manifest.clients.values()) == 3


@pytest.mark.parametrize("p", [0.0, 0.6, 0.7, 0.8, 1.0])
@pytest.mark.parametrize("profile", ["fixed", "paper"])
def test_hybrid_clients_hold_one_thing(p, profile):
    split = apply_scenario("hybrid", paired(LABELS), 10, profile_params(profile, p=p), seed=2)
    for part in split.clients.values():
        assert len({row.presence for row in part}) == 1
        assert part[0].presence != "neither"
    if p == 1.0:
        assert set(split.manifest.betas.values()) == {0.0}


def test_hybrid_coin_is_fair():
    coins = [
        apply_scenario("hybrid", paired([0] * 40), 40, ScenarioParams(p=0.0), seed=s).manifest.clients.values()
        for s in range(10)
    ]
    images = sum(record.presence["image"] for records in coins for record in records)
    assert abs(images - 200) < 4 * math.sqrt(400) / 2


def test_rows_without_their_clients_modality_are_dropped_and_counted():
    rows = paired([0] * 90) + [Sample(f"x{n}", "/x.png", None, "a", label=0) for n in range(10)]
    split = apply_scenario("cross", rows, 2, ScenarioParams(alpha=5.0, image_clients=1), seed=0)
    dropped = {client: record.dropped for client, record in split.manifest.clients.items()}
    assert sum(dropped.values()) + sum(map(len, split.clients.values())) == 100
    for client, record in split.manifest.clients.items():
        assert record.presence["neither"] == 0
        assert dropped[client] == 0 or record.presence["image"] == 0
    assert sum(dropped.values()) > 0


@pytest.mark.parametrize("k", [3, 5, 7])
def test_medical_cross_is_even(k):
    rows = medical(203, 1001)
    split = apply_scenario("cross", rows, 10, ScenarioParams(image_clients=k, text_clients=10 - k), seed=4)
    sizes = {"image": [], "text": []}
    for part in split.clients.values():
        (show,) = {row.presence for row in part}
        sizes[show].append(len(part))
    assert (len(sizes["image"]), len(sizes["text"])) == (k, 10 - k)
    assert (sum(sizes["image"]), sum(sizes["text"])) == (203, 1001)
    assert all(max(counts) - min(counts) <= 1 for counts in sizes.values())
    assert sum(record.dropped for record in split.manifest.clients.values()) == 0


@pytest.mark.parametrize("p", [0.8, 0.7, 0.6])
def test_medical_hybrid_deals_every_row_once(p):
    rows = medical(203, 1001)
    split = apply_scenario("hybrid", rows, 10, ScenarioParams(p=p), seed=4)
    assert sorted(row.id for part in split.clients.values() for row in part) == sorted(row.id for row in rows)


def test_patients_stay_whole_in_the_even_split():
    rows = [Sample(f"i{n}", "/i", None, "a", keys={"patient": f"p{max(0, n - 40)}"}) for n in range(60)]
    rows += [Sample(f"t{n}", None, "t", "a", keys={"patient": f"q{n}"}) for n in range(9)]
    split = apply_scenario("cross", rows, 12, ScenarioParams(image_clients=9, keep_together="patient"), seed=0)
    homes = [{row.keys["patient"] for row in part} for part in split.clients.values()]
    assert sum(map(len, homes)) == len(set().union(*homes)) == 29
    assert all(homes)


def test_groups_of_several_keys_stay_whole():
    """A patient, or a study: rows that share either are on one client, and so are those that others connect."""
    rows = [
        Sample(f"r{n}", "/i", "t", "a", label=n % 2, keys={"patient": f"p{n // 3}", "study": f"p{(n + 1) // 3}"})
        for n in range(60)
    ]
    params = ScenarioParams(keep_together=["patient", "study", "patient"], alpha=5.0)
    assert params.group_keys == ("patient", "study") and params.as_dict()["keep_together"] == ["patient", "study"]
    with pytest.raises(ScenarioError, match=r"1 groups of 'patient' and 'study' cannot give each of 2 clients one"):
        apply_scenario("aligned", rows, 2, params, seed=0)
    apart = [replace(row, keys={**row.keys, "study": f"s{n // 6}"}) for n, row in enumerate(rows)]
    split = apply_scenario("aligned", apart, 5, params, seed=0)
    for key in params.group_keys:
        homes = [{row.keys[key] for row in part} for part in split.clients.values()]
        assert sum(map(len, homes)) == len(set().union(*homes))
    one = ScenarioParams(keep_together=["study"], alpha=5.0)
    assert one == ScenarioParams(keep_together="study", alpha=5.0) and one.as_dict()["keep_together"] == "study"
    with pytest.raises(ScenarioError, match="keep_together: 3 must be the name of a key of the rows, or a list"):
        ScenarioParams(keep_together=3)


def test_questions_in_words_alone_count_as_text_rows():
    rows = medical(20, 0) + [Sample(f"card{n}", None, None, "that", question="what") for n in range(20)]
    assert Rows(rows).unpaired
    split = apply_scenario("cross", rows, 4, ScenarioParams(image_clients=2), seed=0)
    assert sorted(record.presence["text"] for record in split.manifest.clients.values()) == [0, 0, 10, 10]
    both = apply_scenario("hybrid", rows, 2, ScenarioParams(p=1.0), seed=0)
    assert all(record.beta < 1 for record in both.manifest.clients.values())  # each holds images and texts


def test_global_generators_are_left_alone():
    import random

    random.seed(1)
    np.random.seed(1)
    before = random.getstate(), np.random.get_state()[1].tolist()
    for profile in ("fixed", "upstream"):
        for name in SCENARIOS:
            apply_scenario(name, paired(LABELS[:1] * 300), 10, profile_params(profile, image_clients=5), seed=1)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before
