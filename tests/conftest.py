"""What many tests share: small configurations of the embedded task, and the pieces of a run built once."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

# Tests run beside each other; numbers that are compared come from the same thread count.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from forks import Forks
from kept_work import images_seen_once, rows_made_once, rows_measured_once
from short_runs import CONFIGS, SHORT

from fs_fedmllm import config as schema

#: The files that take longest, longest first. They are begun first, so that the workers of ``--dist loadfile`` end
#: together; a file need not be named here.
LONGEST = (
    "test_job.py", "test_simulation.py", "test_async_runs.py", "test_nvflare_rounds.py",
    "test_nvflare_run.py", "test_plug.py", "test_methods.py", "test_families.py", "test_extras.py",
    "test_publisher.py",
    "test_algorithms.py", "test_rounds.py", "test_hub_runs.py", "test_planner.py", "test_runs.py", "test_runner.py",
    "test_compat.py", "test_sft_trainer.py", "test_judge_endpoint.py", "test_cli.py", "test_secure_round.py",
    "test_compressed_runs.py", "test_own_log.py", "test_client_state.py", "test_federatedscope.py",
    "test_parallel.py", "test_docs.py", "test_dp_runs.py", "test_local_metrics.py", "test_given_clients.py",
    "test_secure_processes.py", "test_commands.py", "test_whole_way.py", "test_quantized_widths.py",
    "test_ended_servers.py", "test_metric_by_path_in_federatedscope.py", "test_privacy.py",
    "test_compressed_rounds.py", "test_vision.py", "test_site_processes.py", "test_trl_in_federatedscope.py",
    "test_stories.py", "test_errors.py", "test_pixels.py", "test_last_rounds.py", "test_notebook.py",
    "test_tracking.py", "test_distributed.py", "test_tutorial.py", "test_stand_ins.py", "test_hostile_texts.py",
    "test_backend.py", "test_families_by_trl.py", "test_evaluate_modules.py", "test_aggregation_runs.py",
    "test_private_rounds.py",
)  # fmt: skip


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config.option, "loadscopereorder"):  # pytest-xdist's own order is by the number of tests
        config.option.loadscopereorder = False


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, Any, Any]:
    """Collect in half the time: a worker imports and rewrites all files, whichever of them it runs.

    Syntax trees make collections of garbage that find none, and what one worker has rewritten another reads. What is
    there after it stays to the end: no later collection of garbage walks through it.
    """
    writes_none = sys.dont_write_bytecode
    sys.dont_write_bytecode = False
    gc.disable()
    try:
        return (yield)
    finally:
        sys.dont_write_bytecode = writes_none
        gc.enable()
        gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    place = {name: index for index, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(place)))  # the rest keeps its order


@pytest.fixture
def short_config(tmp_path: Path) -> Callable[..., schema.Config]:
    """Make a short configuration: ``short_config("cross_i3t7", "seed", "7")``."""

    def make(name: str = "cross_i3t7", *overrides: Any) -> schema.Config:
        words = [*SHORT, "outdir", str(tmp_path / "exp"), *[str(word) for word in overrides]]
        return schema.load(CONFIGS / f"{name}.yaml", words)

    return make


@pytest.fixture(scope="session")
def federation() -> Any:
    """The pieces of a short cross run, built once; tests must leave them as they are."""
    from fs_fedmllm.rounds.federation import Federation
    from fs_fedmllm.scenarios.federated_data import prepare_data

    config = schema.load(CONFIGS / "cross_i3t7.yaml", SHORT)
    return Federation.build(config, prepare_data(config))


@pytest.fixture(scope="session", autouse=True)
def work_of_the_embedded_task_is_kept() -> Iterator[None]:
    """Rows and images of the embedded task, the same in some hundred runs of a process."""
    with rows_made_once(), rows_measured_once(), images_seen_once():
        yield


#: Where names are open to other packages.
OPEN = {
    "fs_fedmllm.algorithms": ("METHODS", "REGULARIZERS"),
    "fs_fedmllm.config.aggregation": ("RULES",),
    "fs_fedmllm.config.open_names": ("SCENARIOS", "OUTSIDE_METRICS"),
    "fs_fedmllm.data.registry": ("DATASETS",),
    "fs_fedmllm.models.families": ("REGISTERED",),
}


@pytest.fixture(autouse=True)
def names_that_a_test_adds_go_with_it() -> Iterator[None]:
    """What a test registers is nothing to the tests that come after it in the same process."""
    before = {id(registry): set(registry._known) for registry in _registries()}
    yield
    for registry in _registries():
        for name in set(registry._known) - before.get(id(registry), set(registry.ours)):
            del registry._known[name]


def _registries() -> list[Any]:
    return [getattr(sys.modules[module], name) for module, names in OPEN.items() if module in sys.modules
            for name in names]  # fmt: skip


@pytest.fixture(scope="session", autouse=True)
def nothing_waits_for_the_disk() -> Iterator[None]:
    """Only a power cut shows whether the disk has what was written; a test that is about that says so itself."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        yield


@pytest.fixture(scope="session")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    """Processes that need not import the engine first; all workers have them from one interpreter."""
    own = tmp_path_factory.getbasetemp()
    made = Forks(own.parent if "PYTEST_XDIST_WORKER" in os.environ else own)
    yield made
    made.close()
