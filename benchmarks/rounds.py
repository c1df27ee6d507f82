"""What a round costs beside its local training, and what the same work costs elsewhere; ratios of one run.

    python benchmarks/rounds.py overhead     ours against a bare PyTorch loop over the same steps, embedded engine
    python benchmarks/rounds.py host         the same inside FederatedScope (needs a checkout)
    python benchmarks/rounds.py backends     a client's update by TRL's trainer and by the lean loop, on the same rows
    python benchmarks/rounds.py evaluation   forced choice against generating 32 tokens, one row at a time
    python benchmarks/rounds.py memory       growth from 2 to 100 clients

    --model FOLDER_OR_ID|realistic|small --dtype bfloat16 --gpu    overhead and evaluation on another model;
                                                                   the last two names are random weights

Each prints the median of alternating repetitions, in wall time and in CPU time of the process: on a machine that
others use, the ratio of the latter is the one to read. Of these only ``memory`` is asserted by a test.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from clocks import Seconds, alternating, now, ratio, since
from random_model import SHAPES, write_model

HERE = Path(__file__).resolve().parent
PRESET = HERE.parent / "configs" / "cross_i3t7.yaml"
REPEATS = 5
STEPS = 20
#: What can be measured; the last two are parts of ``backends``.
ROWS = ("overhead", "host", "backends", "evaluation", "memory", "only-lean", "only-trl")
#: Command-line words for another model or device, from ``main``.
MODEL: list[str] = []
#: Rows with both modalities and with one, and a penalty.
MIXED = ("data.splitter", "fedmllm_missing", "data.splitter_args", "[{alpha: 5.0, beta: 0.5}]",
         "fedmllm.regularizer.type", "adaptive")  # fmt: skip
#: The words after the row's name, for a process of its own.
BACK_AGAIN: list[str] = []


def _config(*overrides: Any) -> Any:
    from fs_fedmllm import config as schema

    words = ["train.local_update_steps", STEPS, "fedmllm.eval.zero_shot", "False", "fedmllm.eval.slices", "never"]
    return schema.load(PRESET, [str(w) for w in (*words, *MODEL, *overrides)])


def _federation(config: Any) -> Any:
    from fs_fedmllm.rounds.federation import Federation
    from fs_fedmllm.scenarios.federated_data import prepare_data

    return Federation.build(config, prepare_data(config))


def _bare_turn(federation: Any, client: int, round_index: int, state: dict[str, Any]) -> None:
    """The same steps as a client's turn, as anyone would write them in PyTorch."""
    import torch

    rows = federation.data.clients[client]
    plan = federation.clients.plan(client, round_index, len(rows))
    model, parameters = federation.mllm.inner, federation.mllm.adapter.parameters
    for parameter, value in zip(parameters, state.values(), strict=True):
        parameter.data.copy_(value)
    optimizer = torch.optim.AdamW(parameters, lr=plan.lr, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    federation.mllm.set_training(True)
    for indices in plan.batches:
        batch = federation.encoder.collate(federation.encoder.encode([rows[i] for i in indices]), completions=True)
        logits = model(**batch.inputs, logits_to_keep=batch.labels.shape[1], use_cache=False).logits
        (batch.loss_sum(logits) / batch.supervised).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
    federation.mllm.set_training(False)


def overhead() -> None:
    """Round time over the time of the same steps in a bare loop."""
    from fs_fedmllm.runs.listener import Listener
    from fs_fedmllm.runs.run_folder import RunFolder
    from fs_fedmllm.runs.session import Session

    config = _config()
    federation = _federation(config)
    folder = tempfile.mkdtemp()
    session = Session(federation, RunFolder(Path(folder), config), Listener())
    start = federation.initial_state()
    for round_index in range(3):
        for client in federation.sample_clients(round_index):
            federation.encoder.encode(federation.data.clients[client])

    def ours(round_index: int) -> Seconds:
        session.state.round = round_index
        session.state.params = start
        started = now()
        clients = session.begin_round().clients
        for client in clients:
            update = federation.clients.update(client, session.state.round, session.message)
            session.take(update)
        session.end_round(len(clients))
        session.checkpoint()
        return since(started)

    def bare(round_index: int) -> Seconds:
        started = now()
        for client in federation.sample_clients(round_index):
            _bare_turn(federation, client, round_index, start)
        return since(started)

    medians = alternating(REPEATS, {"bare": bare, "ours": ours})
    for clock, loop, round_ in zip(("wall", "CPU"), medians["bare"], medians["ours"], strict=True):
        extra = round_ - loop
        print(f"{clock} time: bare loop {loop:.3f} s, a round of ours {round_:.3f} s; overhead "
              f"{100 * extra / loop:+.1f} %, {extra / 2:+.3f} s a client turn ({STEPS} steps)")  # fmt: skip


def host() -> None:
    """What FederatedScope adds to a round and to memory, with 10 and with 100 clients, beside the embedded engine."""
    rounds = REPEATS + 2
    for clients in (10, 100):
        with tempfile.TemporaryDirectory() as folder:
            for engine in ("embedded", "federatedscope"):
                words = ["train.local_update_steps", STEPS, "federate.total_round_num", rounds, "eval.freq", rounds]
                words += ["fedmllm.eval.zero_shot", "False", "outdir", folder, "expname", engine, "fedmllm.workers", 1]
                words += ["fedmllm.eval.limit", 8, "federate.client_num", clients, "data.splitter", "fedmllm_aligned"]
                words += ["data.splitter_args", "[{alpha: 5.0}]", *MODEL]
                command = [sys.executable, "-m", "fs_fedmllm", "run", str(PRESET), "--engine", engine]
                process = subprocess.Popen(
                    [*command, *map(str, words)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
                )
                _, status, used = os.wait4(process.pid, 0)
                if status:
                    raise SystemExit(f"{engine} failed: {' '.join(map(str, words))}")
                lines = [json.loads(x) for x in (Path(folder) / engine / "metrics.jsonl").read_text().splitlines()]
                done = [line for line in lines if line["kind"] == "round"][2:]
                wall = statistics.median(line["seconds"] for line in done)
                rest = statistics.median(line["seconds"] - line["training_seconds"] for line in done)
                print(f"{clients} clients, {engine}: round {wall:.3f} s, of it not local training {rest:.3f} s = "
                      f"{100 * rest / wall:.1f} %, {rest / 2:.3f} s a client turn (first encoding of rows included); "
                      f"whole job {used.ru_utime + used.ru_stime:.1f} s of CPU time, "
                      f"{used.ru_maxrss / 1024:.0f} MiB at most", flush=True)  # fmt: skip


def backends() -> None:
    """A client's update by both trainers: seconds in turns in this process, memory of a process for each."""
    from fs_fedmllm.rounds.backends import local_trainer

    federation = _federation(_config(*MIXED))
    rows = federation.data.clients[1]
    plan = federation.clients.plan(1, 0, len(rows))
    encoded = dict(zip(plan.rows, federation.encoder.encode([rows[i] for i in plan.rows]), strict=True))
    trainers = {
        name: local_trainer(
            federation.mllm, federation.encoder, dataclasses.replace(federation.config.fedmllm.train, backend=name)
        )
        for name in ("lean", "trl")
    }

    def timed(name: str) -> Callable[[int], Seconds]:
        def run(_: int) -> Seconds:
            start = federation.initial_state()
            started = now()
            trainers[name].fit(start, encoded, plan)
            return since(started)

        return run

    medians = alternating(REPEATS, {"trl": timed("trl"), "lean": timed("lean")})
    print(f"an update of {STEPS} steps: TRL's trainer {medians['trl'][0]:.2f} s, lean {medians['lean'][0]:.2f} s; "
          f"{ratio(medians['trl'], medians['lean'])}")  # fmt: skip
    peaks = {}
    for name in ("trl", "lean"):
        words = [sys.executable, __file__, f"only-{name}", *BACK_AGAIN]
        peaks[name] = float(subprocess.run(words, stdout=subprocess.PIPE, check=True).stdout.split()[-1])
    print(f"memory of a process at most: TRL's trainer {peaks['trl']:.0f} MiB, lean {peaks['lean']:.0f} MiB; "
          f"{peaks['trl'] / peaks['lean']:.2f} x (TRL's imports included)")  # fmt: skip


def only(name: str) -> None:
    """Two updates by one trainer and nothing else; prints the most memory that the process had, in MiB (Linux)."""
    federation = _federation(_config(*MIXED, "fedmllm.train.backend", name))
    for round_index in range(2):
        federation.clients.update(1, round_index, federation.server.message(federation.initial_state(), {}))
    # Of this process alone; what wait4 tells counts the memory of the parent at the fork.
    status = Path("/proc/self/status").read_text()
    print(int(status.split("VmHWM:")[1].split()[0]) / 1024)


def evaluation() -> None:
    """Forced choice against generation, and whether both decide alike."""
    import torch

    federation = _federation(_config())
    federation.mllm.adapter.load(federation.initial_state())
    rows = federation.data.dataset.test[:64]
    encoded = federation.encoder.encode(rows)
    answers: list[str] = []

    def forced(_: int) -> Seconds:
        started = now()
        federation.evaluator.option_log_probs(rows)
        return since(started)

    def generated(_: int) -> Seconds:
        started = now()
        answers.clear()
        for row in encoded:
            batch = federation.encoder.collate([row], completions=False)
            with torch.no_grad():
                output = federation.mllm.inner.generate(
                    **batch.inputs, max_new_tokens=32, min_new_tokens=32, do_sample=False, use_cache=True
                )
            answers.append(federation.mllm.tokenizer.decode(output[0, batch.inputs["input_ids"].shape[1] :]))
        return since(started)

    medians = alternating(REPEATS, {"generated": generated, "forced": forced})
    letters = [answer.strip()[1:2] for answer in answers]
    chosen = ["ABCDEFGH"[i] for i in federation.evaluator.option_log_probs(rows).argmax(axis=1)]
    same = sum(a == b for a, b in zip(letters, chosen, strict=True))
    print(f"{len(rows)} rows: generate {medians['generated'][0]:.2f} s, forced choice {medians['forced'][0]:.3f} s; "
          f"{ratio(medians['generated'], medians['forced'])}; same decision in {same} of {len(rows)}")  # fmt: skip


def memory() -> None:
    """Bytes of live tensors after the model is loaded, by number of clients."""
    import torch

    def tensor_bytes() -> int:
        gc.collect()
        seen = {}
        for thing in gc.get_objects():
            if isinstance(thing, torch.Tensor) and thing.device.type == "cpu":
                storage = thing.untyped_storage()
                seen[storage.data_ptr()] = storage.nbytes()
        return sum(seen.values())

    from fs_fedmllm.runs.listener import Listener
    from fs_fedmllm.runs.run_folder import RunFolder
    from fs_fedmllm.runs.session import Session

    sizes = {}
    for clients in (2, 10, 100):
        words = ["federate.client_num", clients, "data.splitter", "fedmllm_aligned", "train.local_update_steps", 1]
        words += ["data.splitter_args", "[{alpha: 5.0}]", "fedmllm.vision_cache.memory_mib", 0]
        config = _config(*words)
        federation = _federation(config)
        before = tensor_bytes()
        session = Session(federation, RunFolder(Path(tempfile.mkdtemp()), config), Listener())
        within = []
        for _ in range(2):
            drawn = session.begin_round().clients
            for client in drawn:
                update = federation.clients.update(client, session.state.round, session.message)
                session.take(update)
                within.append(tensor_bytes() - before)
                del update
            session.end_round(len(drawn))
        sizes[clients] = [size / session.adapter_size for size in (max(within), tensor_bytes() - before)]
        del session, federation
    for clients, (most, between) in sizes.items():
        print(f"{clients} clients: {most:.2f} adapters above the model within a round, {between:.2f} between rounds")


def main() -> None:
    """Parse the command line and run one row."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=ROWS, metavar="ROW", help=", ".join(ROWS[:5]))
    parser.add_argument("--model", default="tiny", help="tiny, a folder, a hub id, realistic or small")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--steps", type=int, default=STEPS, help="optimizer steps in a turn")
    parser.add_argument("--repeats", type=int, default=REPEATS)
    chosen = parser.parse_args()
    globals().update(STEPS=chosen.steps, REPEATS=chosen.repeats)
    with tempfile.TemporaryDirectory() as folder:
        path = chosen.model
        if path in SHAPES:
            path = folder
            print("random weights, in millions:", write_model(Path(folder), chosen.model, chosen.dtype))
        MODEL.extend(["model.fedmllm.path", path, "model.fedmllm.dtype", chosen.dtype, "use_gpu", str(chosen.gpu)])
        BACK_AGAIN.extend(["--model", path, "--dtype", chosen.dtype, "--steps", str(STEPS)])
        BACK_AGAIN.extend(["--gpu"] if chosen.gpu else [])
        if chosen.what.startswith("only-"):
            only(chosen.what.removeprefix("only-"))
        else:
            globals()[chosen.what]()


if __name__ == "__main__":
    main()
