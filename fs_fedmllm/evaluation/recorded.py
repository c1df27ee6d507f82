"""``results.json`` of a run as others read it: it may be of another release, or edited."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fs_fedmllm.errors import FedMLLMError
from fs_fedmllm.files.untrusted import read_mapping

#: What the file holds under its names, as far as it is read; a name may be absent, or null.
_SHAPES: dict[str, Any] = {
    **dict.fromkeys(("evaluations", "refused", "participants", "options", "classes"), list | dict),
    **dict.fromkeys(
        ("best", "zero_shot", "test_sets", "test_rows", "shortened_rows", "seconds", "missing_rates"), dict
    ),
    **dict.fromkeys(("data", "images", "intervals", "clients", "views", "client_names"), dict),
    **dict.fromkeys(("bytes_sent", "adapter_bytes", "rounds"), int | float),
    **dict.fromkeys(("version", "commit", "profile", "dataset", "scenario", "model", "method", "best_by"), str),
}


class RecordError(FedMLLMError):
    """A file that no run wrote so."""


def read_results(path: Path) -> dict[str, Any]:
    """The results, whose parts are what their readers take them for.

    Raises:
        RecordError: the file cannot be read, or a part of it is not what a run writes there.
    """
    results = read_mapping(path, RecordError)
    for name, kind in _SHAPES.items():
        if not isinstance(results.get(name), kind | None):
            raise RecordError(f"{path}: {name} is not what a run writes there. Take the file that the run wrote.")
    for name in ("classes", "clients"):
        parts = results.get(name) or {}
        if isinstance(parts, dict) and not all(isinstance(part, Mapping) for part in parts.values()):
            raise RecordError(f"{path}: {name} must hold mappings. Take the file that the run wrote.")
    sets = results.get("test_sets") or {}
    for name, parts in (("evaluations", results.get("evaluations") or ()), ("test_sets", sets.values())):
        if not all(isinstance(part, Mapping) for part in parts):
            raise RecordError(f"{path}: {name} must be mappings. Take the file that the run wrote.")
    return results
