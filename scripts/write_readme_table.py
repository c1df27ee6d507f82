"""Put the closing table of the README's main job into the README, between two marks.

    python scripts/write_readme_table.py               # runs configs/cross_i3t7.yaml on the embedded engine first
    python scripts/write_readme_table.py RUN_FOLDER    # of a finished run of that configuration as it ships

What differs on every machine (seconds, the adapter's digest, the run folder's name) is left out; the sentence under
the table says on what kind of machine the figures were made, since other kernels round differently.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from fs_fedmllm.runs.console import closing_table

REPOSITORY = Path(__file__).resolve().parent.parent
TARGET, PRESET = REPOSITORY / "README.md", REPOSITORY / "configs" / "cross_i3t7.yaml"
FIRST, LAST = "<!-- closing table -->", "<!-- end of closing table -->"
#: Lines of the closing table that say something of this machine or of this run alone.
OWN = ("time: ", "adapter sha256: ", "run folder: ")


def processor() -> str:
    """The kind of processor, by what the choice of kernels depends on."""
    info = Path("/proc/cpuinfo")
    flags = set(info.read_text().split()) if info.is_file() else set()
    known = ("avx512_bf16", "avx512f", "avx2")
    named = next((flag.upper().replace("_", "-") for flag in known if flag in flags), "")
    return platform.machine() + (f" with {named.replace('AVX512F', 'AVX512')}" if named else "")


def block(results: dict[str, Any], machine: str) -> str:
    """What stands between the marks.

    Args:
        results: as in results.json.
        machine: what the figures were made with.
    """
    lines = closing_table(results, "").splitlines()
    shown = [next((f"{start}..." for start in OWN if line.startswith(start)), line.rstrip()) for line in lines]
    return (
        f"{FIRST}\n```\n" + "\n".join(shown) + "\n```\n\n"
        f"Figures of one machine: {machine}.\n"
        "The bytes sent are the same everywhere. Another kind of processor rounds sums differently, so accuracies\n"
        f"and the adapter's sha256 differ there.\n{LAST}"
    )


def main() -> None:
    """Command line."""
    import torch

    with tempfile.TemporaryDirectory() as folder:
        run = Path(sys.argv[1]) if sys.argv[1:] else Path(folder) / "table"
        if not sys.argv[1:]:
            command = [sys.executable, "-m", "fs_fedmllm", "run", str(PRESET), "--engine", "embedded"]
            subprocess.run([*command, "outdir", folder, "expname", "table"], check=True)
        results = json.loads((run / "results.json").read_text(encoding="utf-8"))
        config = yaml.safe_load((run / "resolved_config.yaml").read_text(encoding="utf-8"))
    from fs_fedmllm import config as schema

    shipped = schema.to_mapping(schema.load(PRESET, []))
    for mapping in (config, shipped):
        mapping.pop("outdir"), mapping.pop("expname")
    if config != shipped:
        raise SystemExit(f"{run} is no run of {PRESET.name} as it ships.")
    made = f"{processor()}, torch {torch.__version__}, {datetime.now(UTC):%Y-%m-%d}"
    text = TARGET.read_text(encoding="utf-8")
    if text.count(FIRST) != 1 or text.count(LAST) != 1:
        raise SystemExit(f"{TARGET} needs one line {FIRST} and, after it, one line {LAST}.")
    head, rest = text.split(FIRST)
    TARGET.write_text(head + block(results, made) + rest.split(LAST)[1], encoding="utf-8")
    print(TARGET)


if __name__ == "__main__":
    main()
