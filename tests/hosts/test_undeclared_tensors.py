"""A client half that sends a tensor which nobody declared: named on every engine, also under differential privacy."""

from __future__ import annotations

import dataclasses
import re
import sys
from pathlib import Path

import pytest
from short_runs import CONFIGS, SHORT

import fs_fedmllm
from fs_fedmllm.algorithms import METHODS, REGULARIZERS
from fs_fedmllm.distributed.identity import Identity
from fs_fedmllm.distributed.messages import Message
from fs_fedmllm.distributed.service import handlers_of
from fs_fedmllm.errors import ConfigError

OUTSIDE = """
import torch
from fs_fedmllm.algorithms.client import ClientHalf
from fs_fedmllm.algorithms.fedavg import FedAvg
from fs_fedmllm.algorithms.regularizer import Regularizer


class Talks(ClientHalf):
    def finish(self, trained, sent):
        return sent | {"talkative/more": torch.zeros(1)}, {}


class Talkative(FedAvg):
    name = "talkative"

    @classmethod
    def client(cls, parameters, context):
        return Talks()


class Chatty(Regularizer):
    name = "chatty"

    @classmethod
    def client(cls, parameters, context):
        return Talks()
"""
DP = ("fedmllm.privacy.dp.clip_norm", "0.05", "fedmllm.privacy.dp.noise_multiplier", "2.0")
METHOD = ("federate.method", "talkative")
NAMED = (
    r"federate\.method 'talkative', .* the client half outside_talks\.Talks sends 'talkative/more' beside the adapter"
)
REMEDY = r"Give it back from finish as what the client keeps, or let the method's expected\(params\) declare it"


@pytest.fixture
def outside(tmp_path: Path, monkeypatch):
    """The module, importable and registered here; its folder is that of an installed package."""
    folder = tmp_path / "outside"
    info = folder / "outside_talks-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: outside-talks\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[fs_fedmllm.algorithms]\ntalkative = outside_talks:Talkative\n")
    (folder / "outside_talks.py").write_text(OUTSIDE)
    monkeypatch.syspath_prepend(folder)
    before = dict(METHODS._known), dict(REGULARIZERS._known)
    import outside_talks

    fs_fedmllm.register_algorithm(outside_talks.Talkative)
    fs_fedmllm.register_regularizer(outside_talks.Chatty)
    yield folder
    METHODS._known, REGULARIZERS._known = before
    sys.modules.pop("outside_talks")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((*METHOD, *DP), rf"{NAMED}, and differential privacy .* {REMEDY} .*switch differential privacy off"),
        (METHOD, rf"{NAMED}, and the method does not declare it.* {REMEDY}"),
        ((*METHOD, "fedmllm.compression.upload", "int8"), rf"{NAMED}, and the method does not declare it"),
        (("fedmllm.regularizer.type", "chatty", *DP), r"type 'chatty': the client half outside_talks\.Talks sends"),
    ],
)
def test_algorithm_tensor_and_remedy_are_named(outside, federation, short_config, tmp_path, words, said) -> None:
    """What every engine computes a client's update with, and the handler of both distributed ones."""
    config = short_config("cross_i3t7", *words)
    other = dataclasses.replace(federation, config=config)
    start = federation.initial_state()
    with pytest.raises(ConfigError, match=said) as found:
        other.clients.attempt(1, 0, start)
    assert found.value.told.startswith("its algorithm (federate.method ")  # what another site reads
    turn = handlers_of(config, 1, other, tmp_path, Identity.plaintext(1))["turn"]  # over gRPC and under NVFlare
    with pytest.raises(ConfigError, match=said):
        turn(Message("turn", {"round": 0}, start), {})


@pytest.mark.parametrize(("engine", "workers"), [("embedded", 1), ("embedded", 2), ("federatedscope", 1)])
def test_a_run_ends_with_it(outside, plugged, host, tmp_path, engine, workers) -> None:
    words = ["-m", "fs_fedmllm", "run", CONFIGS / "cross_i3t7.yaml", "--engine", engine, *SHORT, *METHOD, *DP,
             "fedmllm.workers", workers, "outdir", tmp_path / "exp"]  # fmt: skip
    done = host.run(*map(str, words), cwd=outside, FEDERATEDSCOPE_HOME=str(plugged))
    said = " ".join(done.stderr.split())
    assert done.returncode == 2 and "Traceback" not in said, said[-3000:]
    assert re.search(NAMED, said) and re.search(REMEDY, said)
