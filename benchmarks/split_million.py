"""Seconds and peak memory of splitting one million rows, for each scenario.

    python benchmarks/split_million.py [rows]

Each scenario runs in a process of its own. The rows are made before the clock starts; "rows" is what they take,
"split" is what the scenario, its clients and its manifest (with sha256) take on top. Images are paths only: nothing is
opened. Figures of one machine are in benchmarks/data.md.
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
import time

SCENARIOS = {
    "aligned": {"alpha": 0.5},
    "aligned, tweets whole": {"alpha": 0.5, "keep_together": "tweet"},
    "missing": {"alpha": 0.5, "beta": 0.5},
    "cross": {"alpha": 0.5, "image_clients": 3, "text_clients": 7},
    "hybrid": {"alpha": 0.5, "p": 0.6},
}


def peak_mib() -> float:
    """Largest resident size of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(name: str, count: int) -> tuple[float, float, float]:
    """Seconds, memory of the rows, and memory on top, in MiB."""
    from fs_fedmllm.data.sample import Sample
    from fs_fedmllm.scenarios import apply_scenario, profile_params

    before = peak_mib()
    answers = [f"({letter}) class" for letter in "ABCDEFGH"]
    rows = [
        Sample(str(i), f"/data/img/{i}.png", f"text of row {i}", answers[(i * i) % 8], label=(i * i) % 8,
               keys={"tweet": str(i // 2)})
        for i in range(count)
    ]  # fmt: skip
    held = peak_mib()
    started = time.perf_counter()
    split = apply_scenario(name.partition(",")[0], rows, 10, profile_params(**SCENARIOS[name]), 0)
    split.manifest.sha256  # noqa: B018 - computed on demand
    return time.perf_counter() - started, held - before, peak_mib() - held


def main() -> None:
    """Print a table."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    print(f"| scenario, {count:,} rows, 10 clients | seconds | rows, MiB | split, MiB |\n| --- | --- | --- | --- |")
    for name in SCENARIOS:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            seconds, rows, split = pool.apply(measure, (name, count))
        print(f"| {name} | {seconds:.1f} | {rows:,.0f} | {split:,.0f} |", flush=True)


if __name__ == "__main__":
    main()
