"""How many copies of the adapter a run holds: counted in live tensors, which no allocator and no CPU changes."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from short_runs import CONFIGS, SHORT

from fs_fedmllm import config as schema
from fs_fedmllm.rounds.federation import Federation
from fs_fedmllm.runs.listener import Listener
from fs_fedmllm.runs.run_folder import RunFolder
from fs_fedmllm.runs.session import Session
from fs_fedmllm.scenarios.federated_data import prepare_data


def live_bytes() -> int:
    """Bytes of the storages of all live tensors that the collector was not told to leave alone."""
    gc.collect()
    storages = {}
    for thing in gc.get_objects():
        # By its type: isinstance asks a million objects for their __class__, and some modules answer with warnings.
        if issubclass(type(thing), torch.Tensor) and thing.device.type == "cpu" and thing.layout == torch.strided:
            storage = thing.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


@pytest.fixture
def nothing_before() -> Iterator[None]:
    """What lives before a test is looked through once, not at every count."""
    yield
    gc.unfreeze()


@pytest.mark.parametrize("clients", [2, 40])
def test_a_run_holds_one_adapter_between_rounds_and_three_within(
    nothing_before: None, tmp_path: Path, clients: int
) -> None:
    """benchmarks/README.md says so: the global adapter, the round's sum, and the update in hand."""
    words = [*SHORT, "federate.client_num", str(clients), "data.splitter", "fedmllm_aligned", "outdir", str(tmp_path)]
    words += ["data.splitter_args", "[{alpha: 5.0}]", "fedmllm.vision_cache.memory_mib", "0"]
    config = schema.load(CONFIGS / "cross_i3t7.yaml", [*words, "train.local_update_steps", "1"])
    federation = Federation.build(config, prepare_data(config))
    gc.collect()
    gc.freeze()
    before = live_bytes()
    session = Session(federation, RunFolder(tmp_path / "run", config), Listener())
    one = sum(tensor.nbytes for tensor in session.state.params.values())
    within = []
    for _ in range(2):
        drawn = session.begin_round().clients
        for client in drawn:
            update = federation.clients.update(client, session.state.round, session.message)
            assert session.take(update)
            within.append((live_bytes() - before) / one)
            del update
        session.end_round(len(drawn))
    between = (live_bytes() - before) / one
    session.folder.close()
    # Hundredths: the trainer keeps the random state of the last update and the like.
    assert between == pytest.approx(1, abs=0.05) and within == [pytest.approx(3, abs=0.05)] * len(within)
