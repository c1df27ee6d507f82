"""What is kept of a run and of a command: what must be equal on one machine, and what must be on every one."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

#: Figures of results.json that say when, where and by which code, not what.
_PASSING = ("seconds", "version", "commit")
#: Relative distance of two norms that a machine with other instructions may bring.
NORMS_AGREE = 2e-3


def called(words: Sequence[object], places: Mapping[str, str]) -> dict[str, Any]:
    """Run a command in this process: its exit code and what it said, without the places where it was said."""
    from fs_fedmllm.cli import main

    out, err = io.StringIO(), io.StringIO()
    raised = ""
    code: Any = None
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main([str(word) for word in words])
        except SystemExit as ended:
            code = ended.code
        except Exception as error:
            raised = type(error).__name__
    said = {"code": code, "out": _placeless(out.getvalue(), places), "err": _placeless(err.getvalue(), places)}
    return {**said, "raised": raised} if raised else said


def _placeless(text: str, places: Mapping[str, str]) -> str:
    for path, name in places.items():
        text = text.replace(path, name)
    return text


def shape_of(text: str) -> str:
    """A printed table without its figures."""
    text = re.sub(r"[0-9a-f]{64}", "<sha256>", text)
    return re.sub(r"[ ]+", " ", re.sub(r"\d+(\.\d+)?", "#", text))


def _digest(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def _norms(path: Path) -> dict[str, float]:
    from safetensors.torch import load_file

    return {name: float(f"{float(tensor.double().norm()):.4e}") for name, tensor in sorted(load_file(path).items())}


def of_run(folder: Path, said: Mapping[str, Any]) -> dict[str, Any]:
    """A run folder's values.

    Args:
        folder: of the run.
        said: from :func:`called`.

    Returns:
        ``exact`` for one machine, ``portable`` for every one; ``norms`` are portable up to rounding.
    """
    if not (folder / "results.json").is_file():
        return {"portable": {"failed": {"code": said["code"], "raised": said.get("raised", "")}}}
    results = json.loads((folder / "results.json").read_text())
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    timeless = [{k: v for k, v in line.items() if "seconds" not in k} for line in lines]
    kinds = sorted({line["kind"] for line in lines})
    metrics = {
        kind: {
            "lines": sum(line["kind"] == kind for line in lines),
            "keys": sorted({key for line in lines if line["kind"] == kind for key in line}),
        }
        for kind in kinds
    }
    tensors = sorted(folder.glob("**/adapter_model.safetensors"))
    return {
        "exact": {
            "adapters": {str(path.parent.relative_to(folder)): _digest(path) for path in tensors},
            "results": {name: value for name, value in results.items() if name not in _PASSING},
            "metrics": hashlib.sha256(json.dumps(timeless).encode()).hexdigest(),
            "predictions": _digest(folder / "predictions.jsonl"),
        },
        "portable": {
            "results": _keys(results),
            "counts": {k: results.get(k) for k in ("rounds", "bytes_sent", "adapter_bytes", "participants", "refused",
                                                  "manifest_sha256", "config_sha256")},
            "metrics": metrics,
            "files": sorted({_name(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}),
            "out": shape_of(said["out"]),
        },
        "norms": {str(path.parent.relative_to(folder)): _norms(path) for path in tensors
                  if path.parent.name != "adapter_best"},
    }  # fmt: skip


def _name(path: Path) -> str:
    return re.sub(r"(tfevents)\..*", r"\1", re.sub(r"sub_exp_\d+", "sub_exp", str(path)))


def _keys(value: Any) -> Any:
    """The keys of nested mappings; lists and figures are what they are elsewhere."""
    if isinstance(value, dict):
        return {key: _keys(inner) for key, inner in sorted(value.items())}
    return type(value).__name__ if not isinstance(value, int | float) or isinstance(value, bool) else "number"


def differences(old: Any, new: Any, same_machine: bool, where: str = "", norms: bool = False) -> list[str]:
    """What has another value now, a line each: where, before, now.

    Args:
        old: written earlier.
        new: of the code as it is.
        same_machine: whether exact values can be compared, and norms to their last digit.
        where: of what these are the values.
        norms: whether these are norms.
    """
    if isinstance(old, dict) and isinstance(new, dict):
        found = []
        for key in sorted(old.keys() | new.keys()):
            if key == "exact" and not same_machine:
                continue
            inside = f"{where} / {key}" if where else key
            if key not in new or key not in old:
                found.append(f"{inside}: {'is gone' if key in old else 'is new'}")
            else:
                found += differences(old[key], new[key], same_machine, inside, norms or key == "norms")
        return found
    if norms and not same_machine and isinstance(old, float) and isinstance(new, float):
        return [] if abs(old - new) <= NORMS_AGREE * max(abs(old), abs(new)) else [f"{where}: {old} -> {new}"]
    return [] if old == new else [f"{where}: {old!r} -> {new!r}"]


def every_help(call: Callable[[Sequence[str]], Mapping[str, Any]]) -> dict[str, str]:
    """The ``--help`` of every command, and of the commands below it."""
    found: dict[str, str] = {}
    waiting: list[tuple[str, ...]] = [()]
    while waiting:
        words = waiting.pop(0)
        text = str(call([*words, "--help"])["out"])
        found[" ".join(words) or "fs-fedmllm"] = text
        if re.search(r"^  [A-Z]+$", text, re.MULTILINE):
            waiting += [(*words, name) for name in re.findall(r"^    ([a-z][\w-]*)(?:\s|$)", text, re.MULTILINE)]
    return found
