"""How a command ends when nobody reads it, when it is interrupted, and when it cannot begin."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from short_runs import CONFIGS, REPOSITORY, SHORT

from fs_fedmllm import config as schema
from fs_fedmllm.errors import FedMLLMError, ModelError, StorageError
from fs_fedmllm.models.loader import check_folder
from fs_fedmllm.rounds import workers as parallel
from fs_fedmllm.runs.simulation import run


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("words", [["config"], ["--help"], ["config", "configs/cross_i3t7.yaml"], ["run", "--help"]])
def test_a_reader_that_goes_ends_a_command_quietly(words: list[str], unbuffered: str) -> None:
    """As ``| head``: the pipe is closed before the first byte is written."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as out:
        done = subprocess.run(
            [sys.executable, "-m", "fs_fedmllm", *words], stdout=out, stderr=subprocess.PIPE, text=True, check=False,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONUNBUFFERED": unbuffered},
        )  # fmt: skip
    # Without a buffer it is argparse that meets the closed pipe, and it drops the error of a help that nobody reads.
    assert done.returncode == (0 if unbuffered and "--help" in words else 141) and done.stderr == ""


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C as a terminal's foreground process has it: what is started in the background may ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_while_workers_fork_is_delivered() -> None:
    """Where it was dropped: a hook of the fork, whose exceptions Python prints and forgets."""
    order = []
    with pytest.raises(KeyboardInterrupt):
        with parallel._interrupts_wait():
            signal.raise_signal(signal.SIGINT)
            order.append("forked")
        order.append("after")
    assert order == ["forked"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_in_a_hook_of_the_fork_ends_the_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = []
    start = parallel.multiprocessing.process.BaseProcess.start

    def interrupted(process) -> None:
        start(process)
        signal.raise_signal(signal.SIGINT)  # as Ctrl-C while the hooks run

    def idle(pipe, federation, inherited) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        pipe.poll(None)

    close = parallel.WorkerPool.close

    def watched(pool, **how) -> None:
        ended.extend(pool._processes)
        close(pool, **how)

    monkeypatch.setattr(parallel.multiprocessing.process.BaseProcess, "start", interrupted)
    monkeypatch.setattr(parallel, "_serve", idle)
    monkeypatch.setattr(parallel.WorkerPool, "close", watched)
    with pytest.raises(KeyboardInterrupt):
        parallel.WorkerPool(None, 2)  # type: ignore[arg-type]
    assert len(ended) == 1 and not ended[0].is_alive()


def test_what_can_be_known_is_told_before_anything_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args, **kwargs):
        raise AssertionError("data were read")

    monkeypatch.setattr("fs_fedmllm.runs.simulation.prepare_data", never)
    (tmp_path / "file").write_text("")
    config = schema.load(CONFIGS / "cross_i3t7.yaml", [*SHORT, "outdir", str(tmp_path / "file" / "exp")])
    with pytest.raises(StorageError, match=r"outdir is .*file/exp.*file cannot be written: Not a directory"):
        run(config)
    monkeypatch.setattr("fs_fedmllm.extras.is_installed", lambda module: module != "dp_accounting")
    private = ["fedmllm.privacy.dp.noise_multiplier", "1.0", "fedmllm.privacy.dp.clip_norm", "0.1"]
    with pytest.raises(FedMLLMError, match=r"dp-accounting, which is not.*pip install 'fs-fedmllm\[privacy\]'"):
        run(schema.load(CONFIGS / "cross_i3t7.yaml", [*SHORT, *private, "outdir", str(tmp_path)]))
    assert sorted(tmp_path.iterdir()) == [tmp_path / "file"]


def test_a_model_folder_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "llava").mkdir(parents=True)
    (tmp_path / "file.safetensors").write_text("")
    absent = (str(tmp_path / "nowhere"), "./llava", "../llava", "models/lava", "a/b/c", "llava/", "~/llava", "C:\\m")
    for path in absent:
        with pytest.raises(ModelError, match="there is no such folder"):
            check_folder(path)
    with pytest.raises(ModelError, match=r"models has llava"):
        check_folder("models/lava")
    with pytest.raises(ModelError, match="is a file: name the folder"):
        check_folder("file.safetensors")
    for path in ("models/llava", "owner/name", "gpt2"):
        check_folder(path)


def test_a_run_causes_no_warning(tmp_path: Path) -> None:
    words = [*SHORT, "federate.total_round_num", "1", "outdir", str(tmp_path)]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run(schema.load(CONFIGS / "cross_i3t7.yaml", words))
    shown = [w for w in caught if not issubclass(w.category, DeprecationWarning | PendingDeprecationWarning)]
    assert not [str(w.message) for w in shown if not issubclass(w.category, ResourceWarning)]
