"""Partitions on the label skew of real CrisisMMD annotations, several images to a tweet."""

import csv
import os
from pathlib import Path

import pytest
from scenario_rows import presence

from fs_fedmllm.data.sample import Sample
from fs_fedmllm.scenarios import ScenarioParams, apply_scenario, profile_params
from fs_fedmllm.scenarios.manifest import apply_manifest

ROOT = os.environ.get("FS_FEDMLLM_DATA", "")
FILE = Path(ROOT) / "crisismmd" / "humanitarian_ids_no_text.tsv"
pytestmark = pytest.mark.skipif(
    not ROOT or not FILE.is_file(), reason="FS_FEDMLLM_DATA does not name a folder with crisismmd annotations"
)


@pytest.fixture(scope="module")
def rows():
    with FILE.open(encoding="utf-8", newline="") as file:
        lines = [line for line in csv.DictReader(file, delimiter="\t") if line["split"] == "train"]
    names = sorted({line["label_image"] for line in lines})
    return [
        Sample(
            id=line["image_id"],
            image=line["image"],
            text="tweet",
            answer=line["label_image"],
            label=names.index(line["label_image"]),
            keys={"tweet_id": line["tweet_id"], "event": line["event_name"]},
        )
        for line in lines
    ]


@pytest.mark.parametrize("alpha", [5.0, 1.0, 0.5])
@pytest.mark.parametrize("clients", [10, 20, 30])
def test_tweets_stay_whole(rows, alpha, clients):
    split = apply_scenario(
        "aligned", rows, clients, ScenarioParams(alpha=alpha, keep_together="tweet_id"), seed=1, dataset="crisismmd"
    )
    homes = [{row.keys["tweet_id"] for row in part} for part in split.clients.values()]
    assert len(rows) == sum(map(len, split.clients.values())) == 13608
    assert sum(map(len, homes)) == len(set().union(*homes)) == 11584
    assert min(map(len, homes)) >= 1
    assert apply_manifest(split.manifest, rows[::-1]).clients == split.clients


def test_single_rows_tear_tweets(rows):
    split = apply_scenario("aligned", rows, 10, seed=1)
    homes = [{row.keys["tweet_id"] for row in part} for part in split.clients.values()]
    assert sum(map(len, homes)) > 11584


def test_proportions_by_event(rows):
    split = apply_scenario("aligned", rows, 10, ScenarioParams(by="event", keep_together="tweet_id"), seed=1)
    assert sum(map(len, split.clients.values())) == 13608


@pytest.mark.parametrize("name", ["aligned", "missing", "cross", "hybrid"])
def test_upstream_repairs_the_first_label_only(rows, name):
    params = profile_params("upstream", dataset="crisismmd", image_clients=3)
    split = apply_scenario(name, rows, 10, params)
    assert sum(map(len, split.clients.values())) == 13608
    if name == "cross":
        assert sum(presence(part)["image"] > 0 for part in split.clients.values()) == 3
