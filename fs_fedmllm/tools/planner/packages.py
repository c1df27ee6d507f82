"""Installed packages against the set that the tests were last run with."""

from __future__ import annotations

import importlib.metadata
import re
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

#: What a run stands on; the rest of constraints.txt is what these bring along.
NAMES = (
    *("torch", "transformers", "peft", "accelerate", "datasets", "scikit-learn", "numpy", "safetensors", "pillow"),
    *("pyyaml", "tqdm", "tensorboard", "huggingface_hub", "tokenizers"),
)
#: What only some runs need; told where it is installed.
OPTIONAL = ("bitsandbytes", "openai", "protobuf", "grpcio", "scipy", "matplotlib", "torchvision")
TESTED, UNTESTED, OUTSIDE, ABSENT = "tested", "not the tested version", "outside the bounds", "missing"


@dataclass(frozen=True)
class Package:
    """One package.

    Attributes:
        name: on the index.
        installed: its version, or empty.
        tested: version in constraints.txt, or empty.
        bounds: what pyproject.toml allows, or empty.
        verdict: ``tested``, ``not the tested version``, ``outside the bounds`` or ``missing``.
        optional: whether most runs do without it.
    """

    name: str
    installed: str
    tested: str
    bounds: str
    verdict: str
    optional: bool


def tested_versions() -> dict[str, str]:
    """Package -> version of constraints.txt; empty where an installation lacks the file."""
    package = Path(__file__).resolve().parents[2]
    for place in (package / "constraints.txt", package.parent / "constraints.txt"):
        if place.is_file():
            lines = re.findall(r"^([\w.-]+)==(\S+)$", place.read_text(encoding="utf-8"), re.MULTILINE)
            return {canonicalize_name(name): version for name, version in lines}
    return {}


def _bounds() -> dict[str, str]:
    """Package -> specifier of our own metadata."""
    try:
        stated = importlib.metadata.requires("fs-fedmllm") or []
    except importlib.metadata.PackageNotFoundError:
        return {}
    found = [Requirement(line) for line in stated]
    return {canonicalize_name(item.name): str(item.specifier) for item in found}


def check_packages() -> list[Package]:
    """Every package that counts, with a verdict; optional ones only where they are installed."""
    tested, bounds = tested_versions(), _bounds()
    result = []
    for name in (*NAMES, *OPTIONAL):
        optional = name in OPTIONAL
        wanted, allowed = tested.get(canonicalize_name(name), ""), bounds.get(canonicalize_name(name), "")
        try:
            installed = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            if not optional:
                result.append(Package(name, "", wanted, allowed, ABSENT, False))
            continue
        # A CPU build of torch is the same version with another local part (2.13.0+cpu).
        public = Version(installed).public
        verdict = TESTED if not wanted or public == Version(wanted).public else UNTESTED
        if allowed and not Requirement(f"x{allowed}").specifier.contains(public, prereleases=True):
            verdict = OUTSIDE
        result.append(Package(name, installed, wanted, allowed, verdict, optional))
    return result
