"""The membership test: what it finds of scores that are known, and of short runs with and without privacy."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from random import Random

import numpy as np
import pytest
import yaml
from scipy import stats

from fs_fedmllm.cli import main
from fs_fedmllm.config import to_mapping
from fs_fedmllm.errors import ConfigError, DataError
from fs_fedmllm.runs import simulation
from fs_fedmllm.tools.audit.attack import FALSE_ALARMS, attack, exact_interval
from fs_fedmllm.tools.audit.membership import NO_PROOF, alike, trained_rows


def test_scores_that_say_nothing_and_scores_that_say_all() -> None:
    rng = np.random.default_rng(1)
    blind = attack(rng.normal(size=300), rng.normal(size=400), np.random.default_rng(0), resamples=200)
    assert blind.auc.low < 0.5 < blind.auc.high and (blind.members, blind.held_out) == (300, 400)
    assert [each.at_most for each in blind.found] == [0.01, 0.1]  # a thousandth of 400 rows is none
    seeing = attack(np.arange(100) + 1000, np.arange(100), np.random.default_rng(0), resamples=200)
    assert seeing.auc.value == 1 and all(each.share == 1 for each in seeing.found)


def test_a_leak_of_few_rows_shows_at_few_false_alarms() -> None:
    """Five in a hundred members are known for certain; on the average that is hardly to be seen."""
    rng = np.random.default_rng(2)
    members = rng.normal(size=1000)
    members[:50] = 50
    found = attack(members, rng.normal(size=1000), np.random.default_rng(0), resamples=200)
    assert found.auc.value < 0.56
    few = found.found[0]
    assert few.at_most == few.false_alarms == 0.001
    assert few.low > 0.03 and few.share >= 0.05


def test_ties_are_no_finds() -> None:
    same = attack(np.zeros(50), np.zeros(50), np.random.default_rng(0), resamples=50)
    assert same.auc.value == 0.5 and all(each.share == each.false_alarms == 0 for each in same.found)


def test_the_interval_of_a_share_is_clopper_and_pearsons() -> None:
    low, high = exact_interval(7, 50)
    assert stats.binom.sf(6, 50, low) == pytest.approx(0.025) and stats.binom.cdf(7, 50, high) == pytest.approx(0.025)


def test_too_few_rows_are_said() -> None:
    assert FALSE_ALARMS == (0.001, 0.01, 0.1)  # docs/privacy.md
    with pytest.raises(DataError, match="at least 20 rows of each kind; there are 3 that were held out"):
        attack(np.zeros(30), np.zeros(3), np.random.default_rng(0))


def test_who_is_a_member(federation) -> None:
    config, data = federation.config, federation.data
    rows = trained_rows(config, data, {"participants": [[2], [5, 2]]})
    assert rows == [*data.clients[2], *data.clients[5]]
    with pytest.raises(ConfigError, match="No client's update was used"):
        trained_rows(config, data, {"participants": [[], []]})
    with pytest.raises(ConfigError, match="do not say who took part"):
        trained_rows(config, data, {})


def test_held_out_rows_lack_what_members_lack(federation) -> None:
    """Or the attack would tell rows with an image from rows without one."""
    data = federation.data
    members = [row for rows in data.clients.values() for row in rows]
    shown = alike(data.dataset.test, members, Random(0))
    shares = {name: count / len(members) for name, count in Counter(row.presence for row in members).items()}
    counts = Counter(row.presence for row in shown)
    assert set(counts) == set(shares) and len(shares) > 1
    assert all(abs(counts[name] / len(shown) - share) < 0.1 for name, share in shares.items())
    assert alike([replace(members[0], image=None, text=None)], members, Random(0)) == []


def test_losses_of_rows_are_those_of_the_batch(federation) -> None:
    rows = federation.data.dataset.test[:6]
    one_by_one = [float(federation.evaluator.row_losses([row])[0]) for row in rows]
    together = federation.evaluator.row_losses(rows)
    assert together == pytest.approx(one_by_one, abs=1e-4) and len({round(x, 4) for x in one_by_one}) > 1


def test_a_sites_folder_of_a_distributed_run_is_refused(short_config, tmp_path, capsys) -> None:
    config = short_config("cross_i3t7", "federate.mode", "distributed")
    (tmp_path / "resolved_config.yaml").write_text(yaml.safe_dump(to_mapping(config)))
    (tmp_path / "results.json").write_text("{}")
    assert main(["audit", "privacy", str(tmp_path)]) == 2
    assert "no site has all training rows" in capsys.readouterr().err


def test_an_audit_of_a_run_with_and_without_privacy(short_config, capsys, tmp_path) -> None:
    _, folder = simulation.run(short_config("cross_i3t7", "expname", "plain"))
    assert main(["audit", "privacy", str(folder.path), "--limit", "60"]) == 0
    told = capsys.readouterr().out
    assert "60 rows that were trained on, 60 that were not" in told and "0.5 is guessing" in told
    assert "no differential privacy: nothing is promised" in told and told.rstrip().endswith(NO_PROOF)
    words = ("fedmllm.privacy.dp.clip_norm", "0.05", "fedmllm.privacy.dp.noise_multiplier", "2")
    results, private = simulation.run(short_config("cross_i3t7", "expname", "private", *words))
    assert main(["audit", "privacy", str(private.path), "--limit", "60", "--which", "best", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["epsilon"] == results["privacy"]["differential_privacy"]["epsilon"] and said["says"] == NO_PROOF
    assert said["adapter"] == "best" and said["calibrated"]["members"] == 60
    assert 0 <= said["calibrated"]["auc"]["low"] <= said["calibrated"]["auc"]["value"] <= 1
    # Rows that are no longer the run's.
    path = folder.path / "results.json"
    path.write_text(path.read_text().replace(json.loads(path.read_text())["manifest_sha256"], "0" * 64))
    assert main(["audit", "privacy", str(folder.path)]) == 2
    assert "not known which of them it was trained on" in capsys.readouterr().err
    assert main(["audit", "privacy", str(tmp_path)]) == 2
    assert "a run that has come to its end" in capsys.readouterr().err
    assert main(["audit", "privacy", str(folder.path), "--limit", "-1"]) == 2
