"""Client weights from what the clients' rows show."""

import pytest
import torch

from fs_fedmllm.aggregators.modality_weights import RULES, modality_mean, modality_weights
from fs_fedmllm.aggregators.updates import weighted_mean
from fs_fedmllm.errors import ConfigError, UpdateError


def rows(both=0, image=0, text=0, neither=0):
    return {"both": both, "image": image, "text": text, "neither": neither}


def test_balanced_by_hand():
    # I = 10 + 30 = 40, T = 10 + 60 = 70: client 1: 10/40 + 10/70, client 2: 30/40, client 3: 60/70; the sum is 2
    weights = modality_weights({1: rows(both=10), 2: rows(image=30), 3: rows(text=60)}, rule="balanced")
    assert weights == pytest.approx({1: (1 / 4 + 1 / 7) / 2, 2: 3 / 8, 3: 3 / 7})


def test_balanced_gives_both_modalities_the_same_say():
    """Cross scenario I-3:T-7: by rows the text clients have 70 %, balanced they have 50 %."""
    presence = {k: rows(image=100) if k <= 3 else rows(text=100) for k in range(1, 11)}
    by_rows, balanced = (modality_weights(presence, rule=rule) for rule in ("samples", "balanced"))
    assert sum(by_rows[k] for k in (1, 2, 3)) == pytest.approx(0.3)
    assert sum(balanced[k] for k in (1, 2, 3)) == pytest.approx(0.5)


def test_complete_by_hand():
    # beta: 0, 1 - 5/10 = 0.5, 1; strength 0.8: 10, 10 * 0.6, 10 * 0.2
    presence = {1: rows(both=10), 2: rows(both=5, text=5), 3: rows(image=10)}
    weights = modality_weights(presence, rule="complete", strength=0.8)
    assert weights == pytest.approx({1: 10 / 18, 2: 6 / 18, 3: 2 / 18})
    assert modality_weights(presence, rule="complete") == pytest.approx({1: 10 / 15, 2: 5 / 15, 3: 0.0})
    assert modality_weights(presence, rule="complete", strength=0.0) == modality_weights(presence, rule="samples")


def test_rows_that_show_nothing_miss_both():
    # 8 both + 2 neither: I = T = 8 of 10 rows, beta = 0.2
    weights = modality_weights({1: rows(both=8, neither=2), 2: rows(both=8)}, rule="complete")
    assert weights == pytest.approx({1: 8 / 16, 2: 8 / 16})


@pytest.mark.parametrize("rule", RULES)
def test_on_complete_data_every_rule_weighs_by_rows(rule):
    weights = modality_weights({5: rows(both=1), 2: rows(both=5), 9: rows(both=14)}, rule=rule)
    assert weights == pytest.approx({2: 0.25, 5: 0.05, 9: 0.7})
    assert list(weights) == [2, 5, 9]


@pytest.mark.parametrize("rule", RULES)
def test_weights_sum_to_one(rule):
    presence = {1: rows(both=3, image=4), 2: rows(text=5, both=1), 3: rows(image=2, neither=1), 4: rows(text=9)}
    assert sum(modality_weights(presence, rule=rule, strength=0.9).values()) == pytest.approx(1.0)


def test_a_modality_that_nobody_has_is_left_out():
    assert modality_weights({1: rows(text=1), 2: rows(text=3)}, rule="balanced") == pytest.approx({1: 0.25, 2: 0.75})


def test_bad_settings():
    presence = {1: rows(text=4), 2: rows(image=4)}
    with pytest.raises(ConfigError, match=r"Unknown rule 'balancd'.*samples, balanced, complete"):
        modality_weights(presence, rule="balancd")
    with pytest.raises(ConfigError, match=r"must be in \[0, 1\]"):
        modality_weights(presence, rule="complete", strength=1.5)
    with pytest.raises(UpdateError, match=r"no client of this round \(1, 2\) a weight"):
        modality_weights(presence, rule="complete", strength=1.0)


def test_the_image_path_is_weighted_by_rows_with_an_image():
    presence = {1: rows(both=10), 2: rows(text=30), 3: rows(image=5, text=15)}
    updates = [(k, 1.0, {name: torch.full((1,), float(k)) for name in ("projector", "q_proj")}) for k in presence]
    got = modality_mean(updates, presence, rule="samples", on_image_path=lambda name: name == "projector")
    assert got["projector"].item() == pytest.approx((10 * 1 + 5 * 3) / 15)
    assert got["q_proj"].item() == pytest.approx((10 * 1 + 30 * 2 + 20 * 3) / 60)


def test_text_rows_do_not_dilute_the_image_path():
    """Client 2 has no image, so its projector got no gradient: by rows client 1's step would be a quarter."""
    presence = {1: rows(both=10), 2: rows(text=30)}
    updates = [
        (1, 10.0, {"projector": torch.ones(2), "q_proj": torch.ones(2)}),
        (2, 30.0, {"projector": torch.zeros(2), "q_proj": torch.zeros(2)}),
    ]
    got = modality_mean(updates, presence, rule="samples", on_image_path=lambda name: name == "projector")
    assert {name: tensor[0].item() for name, tensor in got.items()} == {"projector": 1.0, "q_proj": 0.25}
    assert weighted_mean(updates)["projector"][0].item() == 0.25


def test_the_mean_with_rows_as_weights_is_the_plain_mean():
    presence = {1: rows(both=3), 2: rows(image=2, text=2), 3: rows(text=5)}
    updates = [(k, float(n), {"w": torch.linspace(-k, n, 20)}) for k, n in ((3, 5), (1, 3), (2, 4))]
    got = modality_mean(updates, presence, rule="samples")
    torch.testing.assert_close(got["w"], weighted_mean(updates)["w"])


def test_weights_are_relative_to_who_answered():
    """A client that did not answer takes no part, although its presence is known."""
    presence = {1: rows(image=10), 2: rows(text=10), 3: rows(text=1000)}
    updates = [(k, 1.0, {"w": torch.full((1,), v)}) for k, v in ((1, 1.0), (2, 3.0))]
    assert modality_mean(updates, presence)["w"].item() == pytest.approx(2.0)


def test_nobody_trained_the_image_path():
    updates = [(1, 1.0, {"projector": torch.ones(1), "w": torch.ones(1)})]
    got = modality_mean(updates, {1: rows(text=3)}, on_image_path=lambda name: name == "projector")
    assert set(got) == {"w"}
