"""The plug on a copy of the real FederatedScope."""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import NoReturn

import pytest
from host_environment import Environment

from fs_fedmllm.errors import HostError
from fs_fedmllm.hosts.federatedscope import import_path
from fs_fedmllm.hosts.federatedscope import plug as plugging
from fs_fedmllm.hosts.federatedscope.checkout import find_federatedscope, is_checkout, require_checkout
from fs_fedmllm.hosts.federatedscope.plug import MARKER, PLUG_FILE, plug, status, unplug

CONFIGS = Path("federatedscope") / "contrib" / "configs"
CALL = (
    "import sys; from fs_fedmllm.hosts.federatedscope import plug as p; print(getattr(p, sys.argv[1])(sys.argv[2]).{})"
)

STOCK_JOB = """
use_gpu: False
seed: 3
federate: {mode: standalone, client_num: 3, sample_client_num: 2, total_round_num: 3, save_to: model.pt}
data: {type: toy}
model: {type: lr}
trainer: {type: general}
train: {local_update_steps: 2, optimizer: {lr: 0.1}}
eval: {freq: 1, count_flops: False}
"""


def tree(folder: Path) -> dict[str, str]:
    """Path -> sha256 of every file and folder below."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in sorted(folder.rglob("*"))
    }


@pytest.fixture
def own_site_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep the path file out of this environment, for tests that plug inside this process."""
    folder = tmp_path / "site-packages"
    folder.mkdir()
    monkeypatch.setattr(import_path, "path_file", lambda: folder / import_path.PATH_FILE)

    def found() -> Path | None:
        named = import_path.named_in_path_file()
        return named if named and is_checkout(named) else None

    monkeypatch.setattr(import_path, "imported_from", found)
    return folder


# --- writing and removing -------------------------------------------------------------------------------------------


def test_plug_adds_one_file_and_unplug_leaves_every_byte_as_it_was(
    fresh_checkout: Path, own_site_packages: Path
) -> None:
    before = tree(fresh_checkout)
    plugged = plug(fresh_checkout)
    assert plugged.changed and plugged.plugged and plugged.current and plugged.warnings == ()
    added = {path: value for path, value in tree(fresh_checkout).items() if path not in before}
    assert list(added) == [str(CONFIGS / PLUG_FILE)]
    assert [path.name for path in own_site_packages.iterdir()] == [import_path.PATH_FILE]
    unplugged = unplug(fresh_checkout)
    assert unplugged.changed and not unplugged.plugged
    assert tree(fresh_checkout) == before
    assert list(own_site_packages.iterdir()) == []


def test_users_changes_and_compiled_files_survive(fresh_checkout: Path, own_site_packages: Path) -> None:
    """Only our compiled file goes; an edited file, an untracked one and the user's own plug-in stay."""
    configs = fresh_checkout / CONFIGS
    (configs / "my_config.py").write_text("# mine\n")
    (fresh_checkout / "federatedscope" / "register.py").open("a").write("\n# edited\n")
    (configs / "__pycache__").mkdir()
    (configs / "__pycache__" / "my_config.cpython-311.pyc").write_bytes(b"theirs")
    before = tree(fresh_checkout)
    plug(fresh_checkout)
    for tag in ("cpython-311", "cpython-311.opt-1", "cpython-312"):
        (configs / "__pycache__" / f"fedmllm_plug.{tag}.pyc").write_bytes(b"ours")
    unplug(fresh_checkout)
    assert tree(fresh_checkout) == before


def test_twice_is_once(fresh_checkout: Path, own_site_packages: Path) -> None:
    assert plug(fresh_checkout).changed
    first = tree(fresh_checkout)
    assert not plug(fresh_checkout).changed
    assert tree(fresh_checkout) == first
    assert unplug(fresh_checkout).changed
    assert not unplug(fresh_checkout).changed


def test_a_plug_of_another_version_is_told_and_replaced(fresh_checkout: Path, own_site_packages: Path) -> None:
    file = fresh_checkout / CONFIGS / PLUG_FILE
    file.write_text(f"{MARKER}: an older one\n")
    old = status(fresh_checkout)
    assert old.plugged and not old.current and "of another version" in old.summary()
    assert plug(fresh_checkout).current


def test_status_changes_nothing(fresh_checkout: Path, own_site_packages: Path) -> None:
    before = tree(fresh_checkout)
    assert not status(fresh_checkout).plugged
    assert tree(fresh_checkout) == before and list(own_site_packages.iterdir()) == []


# --- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("act", [plug, unplug, status])
def test_a_folder_that_is_not_federatedscope_is_refused(act, tmp_path: Path) -> None:
    with pytest.raises(HostError, match=r"not a FederatedScope checkout: it has no federatedscope/__init__\.py"):
        act(tmp_path)
    with pytest.raises(HostError, match="is not a folder"):
        act(tmp_path / "absent")
    assert list(tmp_path.iterdir()) == []


def test_the_package_folder_is_refused_with_the_right_one(fresh_checkout: Path) -> None:
    with pytest.raises(HostError, match=f"give the checkout, {re.escape(str(fresh_checkout))}"):
        plug(fresh_checkout / "federatedscope")


@pytest.mark.parametrize("kind", ["file", "link", "folder"])
def test_a_foreign_file_of_our_name_is_refused_and_kept(
    fresh_checkout: Path, own_site_packages: Path, kind: str
) -> None:
    file = fresh_checkout / CONFIGS / PLUG_FILE
    if kind == "file":
        file.write_text("print('somebody else')\n")
    elif kind == "link":  # even to a file with our marker
        (fresh_checkout / "elsewhere").write_text(f"{MARKER}\n")
        file.symlink_to(fresh_checkout / "elsewhere")
    else:
        file.mkdir()
    before = tree(fresh_checkout)
    for act in (plug, unplug):
        with pytest.raises(HostError, match="fs-fedmllm did not write it"):
            act(fresh_checkout)
    assert "did not write it" in status(fresh_checkout).summary()
    assert tree(fresh_checkout) == before


def test_a_read_only_checkout_is_an_error_and_leaves_nothing(
    fresh_checkout: Path, own_site_packages: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The refusal comes from ``os.replace``, after the temporary file: a superuser may write anywhere."""

    def refuse(*_: object) -> NoReturn:
        raise PermissionError(13, "Permission denied")

    before = tree(fresh_checkout)
    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(HostError, match=r"fedmllm_plug\.py cannot be written: Permission denied\. Give yourself"):
        plug(fresh_checkout)
    assert tree(fresh_checkout) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="a superuser may write anywhere")
def test_a_folder_without_write_permission_is_an_error(fresh_checkout: Path, own_site_packages: Path) -> None:
    folder = fresh_checkout / CONFIGS
    folder.chmod(0o555)
    try:
        with pytest.raises(HostError, match="cannot be written"):
            plug(fresh_checkout)
    finally:
        folder.chmod(0o755)


def test_site_packages_that_cannot_be_written_are_a_warning(
    fresh_checkout: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The plug itself is in; the warning says how to start FederatedScope without the path file."""
    monkeypatch.setattr(import_path, "path_file", lambda: tmp_path / "absent" / import_path.PATH_FILE)
    monkeypatch.setattr(import_path, "imported_from", lambda: None)
    plugged = plug(fresh_checkout)
    assert plugged.plugged and plugged.path_file is None
    assert len(plugged.warnings) == 1 and f"PYTHONPATH={fresh_checkout}" in plugged.warnings[0]


def test_a_foreign_path_file_is_kept(fresh_checkout: Path, own_site_packages: Path) -> None:
    foreign = own_site_packages / import_path.PATH_FILE
    foreign.write_text("/somewhere\n")
    assert "did not write" in plug(fresh_checkout).warnings[0]
    unplug(fresh_checkout)
    assert foreign.read_text() == "/somewhere\n"


def test_a_path_file_cannot_hold_a_line_break() -> None:
    with pytest.raises(ValueError, match="line breaks"):
        import_path.path_file_content(Path("/a\nb"))


# --- what Python then imports ---------------------------------------------------------------------------------------


def call(environment: Environment, act: str, checkout: Path | str, cwd: Path, what: str = "summary()") -> str:
    done = environment.run("-c", CALL.format(what), act, checkout, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("name", ["plain", "with two  spaces", "schöne-モデル"])
def test_a_relative_path_is_plugged_whatever_its_letters(
    fresh_checkout: Path, environment: Environment, tmp_path: Path, name: str
) -> None:
    """From inside the checkout's parent, by relative path; a fresh interpreter then imports this very folder."""
    checkout = fresh_checkout.rename(tmp_path / name)
    before = tree(environment.folder)
    said = call(environment, "plug", name, tmp_path)
    assert "plug           present\nimported from  this checkout (through" in said and "warning" not in said
    assert (environment.site_packages / import_path.PATH_FILE).is_file()
    found = environment.run("-P", "-c", "import federatedscope as f; print(f.__file__)", cwd=tmp_path)
    assert Path(found.stdout.strip()) == checkout / "federatedscope" / "__init__.py"
    call(environment, "unplug", name, tmp_path)
    assert tree(environment.folder) == before


def test_another_federatedscope_on_the_path_is_told_with_both_paths(
    fs_source: Path, fresh_checkout: Path, environment: Environment, tmp_path: Path
) -> None:
    """As if installed: Python imports that one even from inside the plugged checkout, and we write no path file."""
    installed = environment.site_packages / "federatedscope"
    shutil.copytree(fs_source / "federatedscope", installed, ignore=shutil.ignore_patterns("__pycache__"))
    said = call(environment, "plug", fresh_checkout, tmp_path)
    assert f"finds {environment.site_packages.resolve()}, not {fresh_checkout}" in said
    assert not (environment.site_packages / import_path.PATH_FILE).exists()
    said = call(environment, "plug", environment.site_packages, tmp_path)
    assert "this checkout" in said and "warning" not in said


def test_a_path_file_that_names_a_deleted_checkout_is_replaced(
    fs_source: Path, fresh_checkout: Path, environment: Environment, tmp_path: Path
) -> None:
    gone = tmp_path / "gone"
    shutil.copytree(fresh_checkout, gone)
    call(environment, "plug", gone, tmp_path)
    shutil.rmtree(gone)
    assert "warning" not in call(environment, "plug", fresh_checkout, tmp_path)
    assert call(environment, "status", fresh_checkout, tmp_path, "imported_from") == str(fresh_checkout)


def test_finding_a_checkout(fresh_checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDERATEDSCOPE_HOME", str(fresh_checkout))
    assert find_federatedscope() == fresh_checkout == require_checkout(str(fresh_checkout))
    monkeypatch.setenv("FEDERATEDSCOPE_HOME", str(tmp_path))
    with pytest.raises(HostError, match="environment variable FEDERATEDSCOPE_HOME is wrong"):
        find_federatedscope()
    monkeypatch.delenv("FEDERATEDSCOPE_HOME")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_federatedscope() is None
    fresh_checkout.rename(tmp_path / "FederatedScope")
    assert find_federatedscope() == tmp_path / "FederatedScope"


# --- FederatedScope itself ------------------------------------------------------------------------------------------


def run_stock_job(
    environment: Environment, folder: Path, program: list[str | Path], **variables: str
) -> subprocess.CompletedProcess[str]:
    folder.mkdir()
    (folder / "job.yaml").write_text(STOCK_JOB)
    # FederatedScope orders some keys of its results by set, so by hash.
    return environment.run(*program, "--cfg", "job.yaml", cwd=folder, PYTHONHASHSEED="0", **variables)


def results(folder: Path) -> dict[str, bytes]:
    """The bytes of the model and of the evaluation results, which carry no times."""
    (outdir,) = (folder / "exp").iterdir()
    return {
        "model.pt": (folder / "model.pt").read_bytes(),
        "eval_results.log": (outdir / "eval_results.log").read_bytes(),
        "eval_results.raw": gzip.decompress((outdir / "eval_results.raw.gz").read_bytes()),
    }


def without_numpy_names(text: bytes) -> bytes:
    return re.sub(rb"np\.float64\(([^()]*)\)", rb"\1", text)


def test_a_stock_job_gives_the_same_bytes_plugged_and_unplugged(
    fresh_checkout: Path, environment: Environment, tmp_path: Path
) -> None:
    """FederatedScope's own toy job.

    Unplugged FederatedScope cannot even start beside today's protobuf, so the unplugged run is started by a script
    that puts in the message module and nothing else.  numpy 2 then writes ``np.float64(0.5)`` for ``0.5`` into the
    results, which our plug prevents: the unplugged results are compared as they are where numpy is older, and with
    these names taken off otherwise.
    """
    main = fresh_checkout / "federatedscope" / "main.py"
    starter = tmp_path / "unplugged.py"
    starter.write_text(
        "import runpy\n"
        "from fs_fedmllm.hosts.federatedscope import compat\n"
        "for fix in compat.FIXES:\n"
        "    if fix.name == 'protobuf-messages' and fix.needed():\n"
        "        fix.apply()\n"
        f"runpy.run_path({str(main)!r}, run_name='__main__')\n"
    )
    before = tree(fresh_checkout)
    found = {}
    done = run_stock_job(environment, tmp_path / "bare", [starter], PYTHONPATH=str(fresh_checkout))
    assert done.returncode == 0, done.stderr[-3000:]
    found["bare"] = results(tmp_path / "bare")
    assert tree(fresh_checkout) == before

    call(environment, "plug", fresh_checkout, tmp_path)
    done = run_stock_job(environment, tmp_path / "plugged", [main])
    assert done.returncode == 0, done.stderr[-3000:]
    found["plugged"] = results(tmp_path / "plugged")
    call(environment, "unplug", fresh_checkout, tmp_path)
    assert tree(fresh_checkout) == before

    assert found["plugged"]["model.pt"] == found["bare"]["model.pt"]
    for file in ("eval_results.log", "eval_results.raw"):
        assert b"np.float64(" not in found["plugged"][file]
        assert found["plugged"][file] == without_numpy_names(found["bare"][file])


def test_federatedscope_goes_on_with_a_warning_when_the_package_is_gone(
    fresh_checkout: Path, environment: Environment, tmp_path: Path
) -> None:
    """Our package is hidden from the interpreter; the config is built all the same."""
    call(environment, "plug", fresh_checkout, tmp_path)
    code = (
        "import sys; sys.modules['fs_fedmllm'] = None\n"
        "from federatedscope.core.configs.config import global_cfg\n"
        "print(global_cfg.backend)\n"
    )
    done = environment.run("-P", "-c", code, cwd=tmp_path)
    assert done.stdout.strip() == "torch", done.stderr
    assert "fs-fedmllm is plugged into this checkout but cannot be imported" in done.stderr
    assert "fedmllm_plug.py if fs-fedmllm is gone for good" in done.stderr


def test_the_plug_source_parses_in_the_oldest_python_that_federatedscope_supports() -> None:
    import ast

    ast.parse(plugging.PLUG_SOURCE, feature_version=(3, 9))
    assert plugging.PLUG_SOURCE.startswith(MARKER)
