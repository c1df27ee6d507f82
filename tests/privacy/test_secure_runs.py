"""Secure aggregation in whole runs on the embedded engine."""

from __future__ import annotations

import json
from typing import ClassVar

import pytest
import torch
from modular import modular_sum
from safetensors.torch import load_file

from fs_fedmllm.errors import ConfigError, PrivacyError, UpdateError
from fs_fedmllm.privacy.masked_sum import MaskedSum
from fs_fedmllm.privacy.secure_aggregation import in_process
from fs_fedmllm.rounds.client import ClientSide
from fs_fedmllm.runs import simulation
from fs_fedmllm.runs.session import Session

SECURE = ("fedmllm.privacy.secure_aggregation.enabled", "True")
THREE = ("federate.sample_client_num", "3")


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (("fedmllm.privacy.secure_aggregation.threshold", "0.8"), "enabled is False"),
        (("fedmllm.privacy.secure_aggregation.value_range", "2"), "enabled is False"),
        ((*SECURE, "fedmllm.privacy.secure_aggregation.threshold", "0.5"), "threshold is 0.5"),
        ((*SECURE, "federate.method", "local"), "federate.method is local"),
        ((*SECURE, "federate.sample_client_num", "2"), "at least 3 clients"),
        ((*SECURE, *THREE, "fedmllm.compression.upload", "int8"), "fedmllm.compression.upload is int8"),
        (
            (*SECURE, *THREE, "fedmllm.privacy.dp.clip_norm", "1", "fedmllm.privacy.dp.noise_multiplier", "1",
             "fedmllm.privacy.dp.sampling", "poisson"),
            "fedmllm.privacy.dp.sampling is poisson",
        ),
        (
            (*SECURE, *THREE, "fedmllm.privacy.dp.clip_norm", "1", "fedmllm.privacy.dp.noise_multiplier", "1",
             "fedmllm.privacy.secure_aggregation.value_range", "2"),
            "value_range has no effect",
        ),
    ],
)  # fmt: skip
def test_meaningless_combinations_name_the_key(short_config, words, key) -> None:
    with pytest.raises(ConfigError, match=key):
        short_config("cross_i3t7", *words)


class PlainSum:
    """The same whole numbers without keys, shares and masks: what the protocol must equal bit for bit."""

    whole = False
    refused: ClassVar[dict] = {}
    figures: ClassVar[dict] = {}

    def __init__(self, params, clients, policy):
        self._params, self._policy, self._vectors = params, policy, []

    def add(self, client, weight, update):
        self._vectors.append(self._policy.vector(client, self._params, update, int(weight)))

    def mean(self):
        return self._policy.mean(modular_sum(self._vectors)) if self._vectors else {}


def adapter(folder):
    return load_file(folder.path / "adapter" / "adapter_model.safetensors")


def test_the_adapter_is_that_of_the_plain_quantised_sum_and_near_the_plain_one(short_config, monkeypatch) -> None:
    words = ("cross_i3t7", *THREE, "federate.total_round_num", "1")
    secure, at = simulation.run(short_config(*words, *SECURE))
    plain, beside = simulation.run(short_config(*words))
    monkeypatch.setattr(in_process, "SecureSum", PlainSum)
    reference, _ = simulation.run(short_config(*words, *SECURE, "expname", "reference"))
    assert secure["adapter_sha256"] == reference["adapter_sha256"] != plain["adapter_sha256"]
    assert secure["privacy"]["secure_aggregation"]["threshold"] == 0.66
    got, expected = adapter(at), adapter(beside)
    # Half a unit per client in the sum, R W n / (2^31 sum of weights) each; rows differ by far less than a factor 3.
    assert max(float((got[n] - expected[n]).abs().max()) for n in got) < 3 * 1.5 * 3 / 2**31 + 1e-8


def test_a_failed_turn_is_a_dropout_that_the_round_survives(short_config, monkeypatch) -> None:
    turn = ClientSide.update
    failed = []

    def sometimes(self, client, round_index, *rest):
        if not failed:
            failed.append(client)
            raise UpdateError("the loss is not finite")
        return turn(self, client, round_index, *rest)

    monkeypatch.setattr(ClientSide, "update", sometimes)
    words = (*SECURE, *THREE, "fedmllm.privacy.secure_aggregation.threshold", "0.6", "federate.total_round_num", "1")
    results, _ = simulation.run(short_config("cross_i3t7", *words))
    assert [r["client"] for r in results["refused"]] == failed and results["rounds"] == 1


def test_a_round_that_is_taken_again_on_one_machine_has_the_same_sum(short_config, monkeypatch) -> None:
    """All updates are in one process, so nothing is remembered; but no second sum comes about either."""

    class Killed(BaseException):
        """Stands for kill -9."""

    totals = []
    total = in_process.SecureServer.total

    def spy(self):
        found = total(self)
        totals.append((self.survivors, found.tobytes()))
        return found

    def die(self):
        raise Killed

    monkeypatch.setattr(in_process.SecureServer, "total", spy)
    checkpoint = Session.checkpoint
    config = short_config("cross_i3t7", *SECURE, *THREE, "federate.total_round_num", "1", "expname", "killed")
    monkeypatch.setattr(Session, "checkpoint", die)
    with pytest.raises(Killed):
        simulation.run(config)
    monkeypatch.setattr(Session, "checkpoint", checkpoint)
    simulation.run(config)
    assert len(totals) == 2 and totals[0] == totals[1]


def test_with_differential_privacy_and_an_adaptive_server(short_config) -> None:
    words = ("fedmllm.privacy.dp.clip_norm", "0.05", "fedmllm.privacy.dp.noise_multiplier", "1", "federate.method")
    results, folder = simulation.run(short_config("cross_i3t7", *SECURE, *THREE, *words, "fedyogi"))
    assert set(results["privacy"]) == {"differential_privacy", "secure_aggregation"}
    rounds = [json.loads(line) for line in (folder.path / "metrics.jsonl").read_text().splitlines()]
    assert [line["epsilon"] > 0 for line in rounds if line["kind"] == "round"] == [True, True]


def test_an_update_in_the_clear_is_not_added_to_a_masked_sum() -> None:
    masked = MaskedSum()
    with pytest.raises(PrivacyError, match="Client 3 sent its update in the clear"):
        masked.add(3, 1.0, {"a": torch.ones(2)})
    assert masked.mean() == {}
