"""What is distributed: the sdist has the repository's files, and its wheel all that the checkout's has."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email import message_from_string
from pathlib import Path

import pytest
from short_runs import REPOSITORY

from fs_fedmllm.version import VERSION

#: Made by work in the tree, and by no commit.
_NOT_OURS = shutil.ignore_patterns(
    ".git", ".*_cache", "__pycache__", "*.egg-info", "build", "dist", ".venv", "exp", ".hypothesis"
)


def not_ours(folder: str, names: list[str]) -> set[str]:
    """What lies in a checkout and is no part of it; ``runs`` is ours inside the package."""
    return _NOT_OURS(folder, names) | ({"runs"} & set(names) if Path(folder) == REPOSITORY else set())


def _build(what: str, tree: Path, out: Path) -> Path:
    """Let setuptools build what ``python -m build --no-isolation`` asks it for."""
    out.mkdir(exist_ok=True)
    code = f"import sys; from setuptools import build_meta; print(build_meta.build_{what}(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", code, out], cwd=tree, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return out / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[set[str], zipfile.ZipFile, zipfile.ZipFile]:
    """Names in the sdist, the wheel of a copy of the checkout, and the wheel of the sdist."""
    folder = tmp_path_factory.mktemp("built")
    shutil.copytree(REPOSITORY, folder / "tree", ignore=not_ours)
    sdist = _build("sdist", folder / "tree", folder / "sdist")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    (root,) = (folder / "unpacked").iterdir()
    names = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
    wheels = [_build("wheel", tree, folder / f"wheel{i}") for i, tree in enumerate((folder / "tree", root))]
    return names, *(zipfile.ZipFile(wheel) for wheel in wheels)  # type: ignore[return-value]


def test_the_sdist_has_every_file_of_the_repository(built, tmp_path: Path) -> None:
    shutil.copytree(REPOSITORY, tmp_path / "tree", ignore=not_ours)
    own = {path.relative_to(tmp_path / "tree").as_posix() for path in (tmp_path / "tree").rglob("*") if path.is_file()}
    assert not own - built[0], sorted(own - built[0])


def test_the_wheel_of_the_sdist_has_all_that_the_checkouts_has(built) -> None:
    _, ours, theirs = built
    assert sorted(ours.namelist()) == sorted(theirs.namelist())
    names = set(theirs.namelist())
    for folder in ("configs", "data_templates", "tables"):
        files = [path.relative_to(REPOSITORY).as_posix() for path in (REPOSITORY / folder).rglob("*.*")]
        assert files and {f"fs_fedmllm/{file}" for file in files if "__pycache__" not in file} <= names
    code = {path.relative_to(REPOSITORY).as_posix() for path in (REPOSITORY / "fs_fedmllm").rglob("*.py")}
    wanted = code | {"fs_fedmllm/constraints.txt", "fs_fedmllm/py.typed", "fs_fedmllm/tools/report/report.html.j2"}
    assert not wanted - names, sorted(wanted - names)
    assert not any(name.startswith(("tests/", "docs/", "scripts/")) for name in names)


def test_the_metadata_describe_it(built) -> None:
    wheel = built[2]
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    metadata = message_from_string(wheel.read(name).decode("utf-8"))
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert str(metadata.get_payload()).strip().startswith("# fs-fedmllm")
    assert len(metadata.get_all("Classifier") or []) >= 5 and metadata.get_all("Project-URL")
    assert "Apache-2.0" in (metadata["License-Expression"], metadata["License"])
    assert metadata["Version"] == VERSION and metadata["Requires-Python"] == ">=3.11"
    stated = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert set(metadata.get_all("Provides-Extra") or []) == set(stated["optional-dependencies"])
    (scripts,) = (name for name in wheel.namelist() if name.endswith(".dist-info/entry_points.txt"))
    assert "fs-fedmllm = fs_fedmllm.cli:main" in wheel.read(scripts).decode("utf-8")


def test_what_ci_asks_pre_commit_and_make_ask_too() -> None:
    """A commit that its author's hooks let through does not fail for style or types."""
    ci, make, hooks = ((REPOSITORY / name).read_text() for name in (".ci/run", "Makefile", ".pre-commit-config.yaml"))
    for command in ("ruff check", "ruff format", "mypy"):
        assert command in ci and command in make and command in hooks
    assert "cat constraints.txt pyproject.toml setup.py .ci/run" in ci  # what the environment is made of
