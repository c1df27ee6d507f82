"""Fuzzes every reader of files: ``python tests/fuzz/fuzz_readers.py [reader...] [--count N] [--seed S]``.

Each reader gets so many changed copies of valid inputs, in this process, under a limit of memory and of ten seconds of
CPU an input. Only FedMLLMError may come out. What else does is a finding: it is counted, and the input is kept in
``--keep``. The same seed gives the same inputs. The exit code is 1 with a finding, else 0.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
import typing
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "distributed")]

from readers import READERS  # noqa: E402

from fs_fedmllm.errors import FedMLLMError  # noqa: E402

#: Seconds of CPU that one input may take; bytes that the process may grow by.
PATIENCE, GROWTH = 10.0, 3 << 30


class TooSlow(BaseException):
    """An input took longer than PATIENCE."""


def _late(number: int, frame: object) -> None:
    raise TooSlow


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    size = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (size + GROWTH, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def _place(error: BaseException) -> str:
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "fs_fedmllm" in f.filename]
    at = frames[-1] if frames else traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} at {Path(at.filename).name}:{at.lineno}: {str(error)[:120]!r}"


def fuzz(name: str, count: int, seed: int, keep: Path, folder: Path) -> dict[str, Any]:
    """Inputs, refusals and findings of one reader."""
    reader = READERS[name](folder)
    for data in reader.seeds:
        reader.read(data)  # what is valid is read
    draw = random.Random(zlib.crc32(f"{name} {seed}".encode()))
    keep.mkdir(parents=True, exist_ok=True)
    current = keep / f"{name}-current"  # what is left of it says which input ended the process
    before = signal.signal(signal.SIGPROF, _late)
    refused, slowest = 0, 0.0
    findings: dict[str, int] = {}
    for number in range(count):
        data = reader.change(draw.choice(reader.seeds), reader.seeds, draw)
        began = time.process_time()
        current.write_bytes(data)
        try:
            signal.setitimer(signal.ITIMER_PROF, PATIENCE)
            try:
                reader.read(data)
            finally:
                signal.setitimer(signal.ITIMER_PROF, 0)
        except FedMLLMError:
            refused += 1
        except (Exception, TooSlow) as error:
            place = _place(error)
            if place.rpartition(": ")[0] not in {known.rpartition(": ")[0] for known in findings}:
                (keep / f"{name}-{number}").write_bytes(data)
                findings[place] = number
        slowest = max(slowest, time.process_time() - began)
    signal.signal(signal.SIGPROF, before)
    current.unlink(missing_ok=True)
    return {"inputs": count, "refused": refused, "slowest": slowest, "findings": findings}


def main(argv: list[str] | None = None) -> int:
    """Fuzz, and print a line a reader."""
    typing.get_type_hints = functools.cache(typing.get_type_hints)  # a third of the time, and nothing of an input's
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("readers", nargs="*", help=f"of {', '.join(READERS)}; all without")
    parser.add_argument("--count", type=int, default=20_000, help="inputs of each reader")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path(tempfile.gettempdir()) / "fuzz-findings")
    args = parser.parse_args(argv)
    unknown = set(args.readers) - set(READERS)
    if unknown:
        parser.error(f"there is no reader {sorted(unknown)[0]!r}; there are {', '.join(READERS)}")
    warnings.simplefilter("ignore")
    bad = 0
    for name in args.readers or READERS:
        with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder, _limited():
            began = time.process_time()
            with contextlib.redirect_stderr(io.StringIO()):
                found = fuzz(name, args.count, args.seed, args.keep, Path(folder))
        used = time.process_time() - began
        print(f"{name}: {found['inputs']:,} inputs, {found['refused']:,} refused, slowest {found['slowest']:.2f} s, "
              f"{used:.0f} s, {len(found['findings'])} findings", flush=True)  # fmt: skip
        for place, number in found["findings"].items():
            print(f"  {place} (input {number}, {args.keep / f'{name}-{number}'})", flush=True)
        bad += len(found["findings"])
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
