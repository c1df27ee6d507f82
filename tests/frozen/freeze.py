"""Whether the code as it is does what it did: about forty short runs, every ``--help``, and what bad input is told.

    python tests/frozen/freeze.py --write before.json
    python tests/frozen/freeze.py --compare before.json       # prints what has another value now; exit code 1

Exact values (adapters, figures) are compared where processor, torch and thread count are those of the file, the others
everywhere: norms up to rounding, keys, counts, bytes, partitions and texts. Everything but the run across processes
happens in this one, so the model is loaded once. ``--parts`` and ``--only`` take a part of it.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import platform
import random
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PARTS = ("embedded", "federatedscope", "across", "help", "bad")


class FixedEntropy:
    """Bytes in the place of the operating system's, so that noise, drawn clients and masks can be compared.

    Every length is a stream of its own: what draws a name or an id beside the noise does not move the noise.
    """

    def __init__(self) -> None:
        self.begin("")

    def begin(self, name: str) -> None:
        """Start anew for a run."""
        self._name, self._counts = name, Counter[int]()

    def __call__(self, size: int) -> bytes:
        self._counts[size] += 1
        return hashlib.shake_128(f"{self._name}/{size}/{self._counts[size]}".encode()).digest(size)


ENTROPY = FixedEntropy()


def fix_the_process() -> None:
    """Threads, width of texts and entropy; before anything that reads them is imported."""
    os.environ |= {"OMP_NUM_THREADS": "1", "COLUMNS": "100", "TQDM_DISABLE": "1", "PYTHONHASHSEED": "0"}
    os.urandom = ENTROPY
    random._urandom = ENTROPY  # type: ignore[attr-defined]
    sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parent.parent)]


def machine() -> str:
    """What exact values depend on."""
    import torch

    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, IndexError):
        model = Path("/proc/cpuinfo").read_text().split("model name\t: ")[1].splitlines()[0]
    return f"{model}, {torch.backends.cpu.get_cpu_capability()}, torch {torch.__version__}, 1 thread"


def runs(engine: str, folder: Path, only: str) -> Iterator[tuple[str, Any]]:
    """Every run on an engine, one after the other."""
    from frozen_cases import RUNS
    from frozen_values import called, of_run
    from short_runs import CONFIGS, SHORT

    for name, case in RUNS.items():
        if only not in name or (engine == "federatedscope" and not case.federatedscope):
            continue
        ENTROPY.begin(name)
        out = folder / f"runs_{engine}"  # a folder named federatedscope would be taken for the package
        words = ["run", CONFIGS / f"{case.preset}.yaml", "--engine", engine, *SHORT, *case.words]
        said = called([*words, "outdir", out, "expname", name], {str(folder): "<folder>"})
        print(f"{engine} / {name}: {said['code']}", file=sys.stderr)
        yield name, of_run(out / name, said)


def across(folder: Path) -> Any:
    """A server and two clients, as processes, from dealt folders."""
    from frozen_cases import ACROSS
    from frozen_values import called, of_run
    from short_runs import CONFIGS, REPOSITORY

    config = CONFIGS / "aligned_a50.yaml"
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    dealt = called(["data", "split", config, "--out", folder / "dealt", "--per-client-folders", *ACROSS], {})
    network = ["fedmllm.network.address", f"127.0.0.1:{port}", "fedmllm.network.insecure", "True"]
    started = []
    for role, own in (("server", "server"), ("client", "client_1"), ("client", "client_2")):
        words = [role, config, *ACROSS, *network, "outdir", folder / "across", "--data", folder / "dealt" / own]
        log = (folder / f"{own}.log").open("w")
        started.append(
            subprocess.Popen(
                [sys.executable, "-m", "fs_fedmllm", *map(str, words)], cwd=folder, stdout=log, stderr=log,
                env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            )
        )  # fmt: skip
    codes = [process.wait() for process in started]
    found = of_run(folder / "across" / "ward", {"code": codes[0], "out": ""})
    # The folder of the rows has another name in every run, and messages hold times: their bytes differ by a few.
    for name in ("config_sha256", "bytes_sent"):
        found["exact"]["results"].pop(name, None)
        found["portable"]["counts"].pop(name, None)
    found["exact"].pop("metrics", None)
    return {"codes": [dealt["code"], *codes]} | found


def frozen(parts: list[str], only: str) -> dict[str, Any]:
    """The values."""
    from frozen_cases import BAD
    from frozen_values import called, every_help
    from short_runs import CONFIGS, REPOSITORY, SHORT

    found: dict[str, Any] = {"machine": machine()}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        places = {str(folder): "<folder>", str(REPOSITORY): "<repository>"}
        os.chdir(folder)
        for engine in ("embedded", "federatedscope"):
            if engine in parts:
                found[engine] = dict(runs(engine, folder, only))
        if "across" in parts:
            found["across"] = across(folder)
        if "help" in parts:
            found["help"] = every_help(lambda words: called(words, places))
        if "bad" in parts:
            begin = ["run", CONFIGS / "cross_i3t7.yaml", "--engine", "embedded", *SHORT, "outdir", folder / "bad"]
            answers = {name: called([*begin, *words], places) for name, words in BAD.items() if only in name}
            found["bad"] = {name: [said["code"], _last_line(said)] for name, said in answers.items()}
        os.chdir(REPOSITORY)
    return found


def _last_line(said: dict[str, Any]) -> str:
    return str(said.get("raised") or (said["err"].strip().splitlines() or [""])[-1])


def main(argv: list[str] | None = None) -> int:
    """Write or compare; 1 where something differs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    does = parser.add_mutually_exclusive_group(required=True)
    does.add_argument("--write", type=Path, metavar="FILE", help="write the values")
    does.add_argument("--compare", type=Path, metavar="FILE", help="print what differs from a file's")
    parser.add_argument("--parts", default=",".join(PARTS), help="comma-separated, of %(default)s")
    parser.add_argument("--only", default="", metavar="WORD", help="runs and refusals whose names hold this")
    parser.add_argument("--portable", action="store_true", help="write or compare no exact values")
    args = parser.parse_args(argv)
    target = (args.write or args.compare).resolve()
    parts = args.parts.split(",")
    if unknown := set(parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    fix_the_process()
    new = json.loads(json.dumps(frozen(parts, args.only)))
    if args.write:
        if args.portable:
            single = (new.get("embedded", {}), new.get("federatedscope", {}), {"across": new.get("across", {})})
            for values in (values for runs_there in single for values in runs_there.values()):
                values.pop("exact", None)
        target.write_text(json.dumps(new, indent=1, sort_keys=True) + "\n")
        return 0
    from frozen_values import differences

    old = json.loads(target.read_text())
    same = not args.portable and old["machine"] == new["machine"]
    print(f"{'exact and portable' if same else 'portable'} values; {old['machine']} -> {new['machine']}")
    old = {part: _chosen(old[part], args.only) for part in parts if part in old}
    found = differences(old, {part: new[part] for part in parts if part in old}, same)
    print("\n".join(found) or "nothing differs")
    return 1 if found else 0


def _chosen(values: Any, only: str) -> Any:
    return {name: value for name, value in values.items() if only in name} if only else values


if __name__ == "__main__":
    sys.exit(main())
