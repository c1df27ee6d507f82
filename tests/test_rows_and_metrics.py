"""A run knows its rows before round 0: what splits share, labels, rows of clients, and metrics that cannot be."""

from __future__ import annotations

import json
import logging

import pytest
from PIL import Image

from fs_fedmllm import config as schema
from fs_fedmllm.errors import ConfigError, DataError
from fs_fedmllm.scenarios.federated_data import prepare_data
from fs_fedmllm.scenarios.fitting import LAST_ROUND, best_metric


@pytest.fixture
def claims(tmp_path):
    """Writes rows of the two-class template, with labels as given for each split, and returns their configuration."""

    def write(
        train: list[int], val: list[int], test: list[int], limit: int = 0, key: str = "test_auc"
    ) -> schema.Config:
        Image.new("L", (8, 8)).save(tmp_path / "a.png")
        for split, labels in (("train", train), ("val", val), ("test", test)):
            rows = [{"image": "a.png", "text": f"{split} {i}", "label": label} for i, label in enumerate(labels)]
            (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return schema.from_mapping(
            {
                "data": {"type": "own", "root": str(tmp_path), "splitter": "fedmllm_aligned"},
                "federate": {"client_num": 2, "make_global_eval": True},
                "eval": {"best_res_update_round_wise_key": key},
                "fedmllm": {"data": {"template": "digits_match"}, "eval": {"limit": limit, "slices": "always"}},
            }
        )

    return write


def test_the_auc_of_one_class_is_refused(claims):
    with pytest.raises(
        DataError, match=r"The test rows of own that are evaluated \(2\) all have the label 'yes'.*AUC"
    ):
        prepare_data(claims([0, 1, 0, 1], [0, 1], [1, 1]))
    with pytest.raises(DataError, match="The val rows"):
        prepare_data(claims([0, 1, 0, 1], [0], [0, 1]))
    with pytest.raises(DataError, match=r"raise fedmllm\.eval\.limit if set"):
        prepare_data(claims([0, 1, 0, 1], [0, 1], [0, 1], limit=1))


@pytest.mark.parametrize(
    ("val", "key", "said"),
    [
        ([0, 1], "val_image_auc", "only test rows are"),
        ([0, 1], "test_open_acc", "an evaluation of own has"),
    ],
)
def test_a_best_round_by_what_is_not_evaluated_is_refused(claims, val, key, said):
    with pytest.raises(ConfigError, match=said):
        prepare_data(claims([0, 1, 0, 1], val, [0, 1], key=key))


def test_without_validation_rows_no_round_is_picked_and_it_is_said(claims, caplog):
    with caplog.at_level(logging.WARNING):
        data = prepare_data(config := claims([0, 1, 0, 1], [], [0, 1], key="val_auc"))
    assert best_metric(config, data.dataset) == LAST_ROUND
    assert any(
        "own has no validation rows" in r.getMessage() and "last round" in r.getMessage() for r in caplog.records
    )
    with pytest.raises(ConfigError, match="an evaluation of own has"):
        prepare_data(claims([0, 1, 0, 1], [], [0, 1], key="val_open_acc"))
    config = claims([0, 1, 0, 1], [0, 1], [0, 1], key="val_auc")
    assert best_metric(config, prepare_data(config).dataset) == "val_auc"


def test_what_is_shared_is_warned_of_and_reported(claims, caplog):
    with caplog.at_level(logging.WARNING):
        data = prepare_data(claims([0, 1, 0, 1], [], [0, 1]))
    assert [r.getMessage() for r in caplog.records if "share" in r.getMessage()] == [
        "Of 2 test rows, 2 share their image with a training row (1 image)."
    ]
    assert data.report["labels"]["test"] == {"no": 1, "yes": 1}
    assert sum(data.report["client_rows"].values()) == 4 and set(data.report["client_rows"]) == {"1", "2"}
    assert data.report["shared"]["train_test"]["image_rows"] == 2
    json.dumps(data.report)


def test_a_run_and_its_dry_run_look_at_the_same_rows(claims) -> None:
    data = prepare_data(claims([0, 1, 0, 1], [0, 1], [1, 0]))
    dealt = [row for rows in data.clients.values() for row in rows]
    assert list(data.shown()) == [*dealt, *data.dataset.val, *data.dataset.test] and len(dealt) == 4
